#ifdef ${NAME}_WEIGHTS_LOADED
/* Says where the $blob_bytes bytes of $name.bin are, at an address that is a multiple of 64, before the first call of
 * any other function; they stay there. Returns 0, or -1 if the address or what is there is wrong. */
int ${name}_load(const void *weights);
#endif

