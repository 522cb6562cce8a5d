// The CUDA ops of attention, compiled for the emulation and registered for tensors on the CPU. The
// schemas are defined from Python (tests/simt/library.py), those of the real ops under another name.

#include <torch/csrc/stable/library.h>

#include "attention/cuda/op.h"

STABLE_TORCH_LIBRARY_IMPL(ptmkernels_simt, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&ptmkernels::attention::cuda::attention_forward));
  m.impl("attention_backward", TORCH_BOX(&ptmkernels::attention::cuda::attention_backward));
}
