/* For Arduino and PlatformIO, which compile what is in src; sketches are compiled for size, this is not. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O2")
#endif
#include "../$part.c"
