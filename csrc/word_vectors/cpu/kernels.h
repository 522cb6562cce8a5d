// The CPU kernels of the training step: one table for each instruction set that this build carries.
#pragma once

#include "word_vectors/step.h"

namespace ptmkernels {

struct StepKernels {
  size_t (*scratch_bytes)(const StepOptions& options);  // of one thread
  void (*run)(StepWork& work);
};

// Defined in variant_<arch>.cpp.
extern const StepKernels kGenericStepKernels;
extern const StepKernels kWideStepKernels;
extern const StepKernels kAvx2StepKernels;
extern const StepKernels kAvx512StepKernels;

}  // namespace ptmkernels
