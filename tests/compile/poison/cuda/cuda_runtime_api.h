#error "the CUDA runtime was included where it must not be"
