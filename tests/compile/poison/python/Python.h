#error "Python.h was included where it must not be"
