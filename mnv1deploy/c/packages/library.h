/* For Arduino and PlatformIO, which look for headers in src. */
#include "../$name.h"
#include "../${name}_selftest.h"
