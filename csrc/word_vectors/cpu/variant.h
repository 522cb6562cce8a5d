// The kernels of one instruction set; included once by each variant_<arch>.cpp, after it has
// defined PTMKERNELS_CPU_ARCH and PTMKERNELS_SIMD_WIDTH. See common/simd.h on what such a unit may
// include.
#pragma once

#include "word_vectors/cpu/kernels.h"
#include "word_vectors/cpu/rows.h"
#include "word_vectors/cpu/trainer.h"
