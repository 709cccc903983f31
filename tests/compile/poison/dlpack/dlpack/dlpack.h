#error "the official DLPack header was included where it must not be"
