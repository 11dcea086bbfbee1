/* ---- Where the weights are -------------------------------------------------------------------------------------
 *
 * ${NAME}_WEIGHTS_FILE, which the compiler looks for as it does for headers, is compiled in; or, with
 *   -D${NAME}_WEIGHTS_LINKED   an object named ${name}_weights is linked
 *   -D${NAME}_WEIGHTS_LOADED   they are where ${name}_load() is told, such as in a partition of the flash.
 */
#ifndef ${NAME}_WEIGHTS_FILE
#define ${NAME}_WEIGHTS_FILE "$name.bin"
#endif

#if defined(${NAME}_WEIGHTS_LOADED)
#define LAYER_CONST
#define LOADED (layers[0].weights != NULL)
#define WEIGHTS(offset) NULL
#else
#define LAYER_CONST const
#define LOADED 1
#define WEIGHTS(offset) ((const int8_t *)${name}_weights + (offset))
#if !defined(${NAME}_WEIGHTS_LINKED) && defined(__STDC_VERSION__) && __STDC_VERSION__ >= 202311L && \
    defined(__has_embed)
static const ALIGNED unsigned char ${name}_weights[$blob_bytes] = {
#embed ${NAME}_WEIGHTS_FILE
};
#else
#if defined(__GNUC__) || defined(__clang__)
#define HIDDEN __attribute__((visibility("hidden")))
#else
#define HIDDEN
#endif
#ifdef __cplusplus
extern "C" {
#endif
extern HIDDEN const unsigned char ${name}_weights[$blob_bytes];
#ifdef __cplusplus
}
#endif
#ifdef ${NAME}_WEIGHTS_LINKED
#elif defined(__GNUC__) || defined(__clang__)
#define LITERAL_OF(text) #text
#define LITERAL(text) LITERAL_OF(text)
#define SYMBOL LITERAL(__USER_LABEL_PREFIX__) "${name}_weights"
#if defined(__APPLE__)
__asm__(".pushsection __TEXT,__const\n.globl " SYMBOL "\n.private_extern " SYMBOL "\n.p2align 6\n" SYMBOL
        ":\n.incbin \"" ${NAME}_WEIGHTS_FILE "\"\n.popsection\n");
#elif defined(_WIN32)
__asm__(".section .rdata,\"dr\"\n.globl " SYMBOL "\n.p2align 6\n" SYMBOL ":\n.incbin \"" ${NAME}_WEIGHTS_FILE
        "\"\n.text\n");
#else
__asm__(".pushsection .rodata.${name}_weights,\"a\",%progbits\n.globl " SYMBOL "\n.hidden " SYMBOL "\n.type " SYMBOL
        ",%object\n.p2align 6\n" SYMBOL ":\n.incbin \"" ${NAME}_WEIGHTS_FILE "\"\n.size " SYMBOL ",.-" SYMBOL
        "\n.popsection\n");
#endif
#else
#error "This compiler cannot take a file in: give ${NAME}_WEIGHTS_LINKED or ${NAME}_WEIGHTS_LOADED."
#endif
#endif
#endif

