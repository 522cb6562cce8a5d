// The CUDA ops of attention, compiled for the emulation and registered for tensors on the CPU. The
// schemas are defined from Python (tests/simt/library.py), those of the real ops under another
// name.

#include <torch/csrc/stable/library.h>

#include "attention/cuda/op.h"

using ptmkernels::attention::cuda::attention_backward;
using ptmkernels::attention::cuda::attention_forward;

STABLE_TORCH_LIBRARY_IMPL(ptmkernels_simt, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&attention_forward<true>));
  m.impl("attention_backward", TORCH_BOX(&attention_backward<true>));
  m.impl("attention_forward_tf32", TORCH_BOX(&attention_forward<false>));
  m.impl("attention_backward_tf32", TORCH_BOX(&attention_backward<false>));
}
