// Storage of the 16-bit floating types. What computes with them converts to float first.
#pragma once

#include <cstdint>

namespace ptmkernels {

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

}  // namespace ptmkernels
