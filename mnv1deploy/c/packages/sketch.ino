// Tests the port, then classifies a grey picture every five seconds.
#include <${name}_selftest.h>

static uint8_t image[${NAME}_IMAGE_BYTES], scratch[${NAME}_SCRATCH];
static float logits[${NAME}_CLASSES];

void setup()
{
    Serial.begin(115200);
    while (!Serial)
        ;
    const int failed = ${name}_selftest(image, logits, scratch);
    Serial.println(failed ? "the answers are wrong" : "the answers are right, to the last bit");
}

void loop()
{
    memset(image, 128, sizeof image);  // put a camera's picture here
    const unsigned long start = millis();
    ${name}_run(image, logits, scratch);
    int best = 0;
    for (int i = 1; i < ${NAME}_CLASSES; i++)
        if (logits[i] > logits[best])
            best = i;
    Serial.print(${name}_classes[best]);
    Serial.print(" in ms: ");
    Serial.println(millis() - start);
    delay(5000);
}
