// Small kernels whose behaviour is known, to test the emulation itself (test_emulation.py).

#include <string>

#include "common/simt.h"

#define SIMT_EXPORT extern "C" __attribute__((visibility("default")))

using namespace ptmkernels::simt;
