#error "a header of CUDA was included where it must not be"
