/* For Arduino and PlatformIO, which look for headers in src. */
#include "../$part.h"
