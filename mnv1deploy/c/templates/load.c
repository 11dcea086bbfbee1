#ifdef ${NAME}_WEIGHTS_LOADED
int ${name}_load(const void *weights)
{
    static const uint32_t offsets[] = {$offsets};
    const uint8_t *bytes = (const uint8_t *)weights;
    uint32_t crc = 0xFFFFFFFFu;
    int i, bit;
    for (i = 0; i < $blob_bytes; i++)
        for (bit = 0, crc ^= bytes[i]; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    if ((crc ^ 0xFFFFFFFFu) != ${blob_crc}u || (uintptr_t)weights % 64 != 0)
        return -1;
    for (i = 0; i < (int)(sizeof offsets / sizeof *offsets); i++)
        layers[i].weights = (const int8_t *)bytes + offsets[i];
    return 0;
}
#endif

