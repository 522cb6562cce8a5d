// The CUDA ops of attention, compiled for the emulation and registered for tensors on the CPU. The
// schemas are defined from Python (tests/simt/library.py), those of the real ops under another
// name.

#include <torch/csrc/stable/library.h>

#include "attention/cuda/op.h"

namespace ptmkernels::attention {

STABLE_TORCH_LIBRARY_IMPL(ptmkernels_simt, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&attention_forward<&cuda::forward<true>>));
  m.impl("attention_backward", TORCH_BOX(&attention_backward<&cuda::backward<true>>));
  m.impl("attention_forward_tf32", TORCH_BOX(&attention_forward<&cuda::forward<false>>));
  m.impl("attention_backward_tf32", TORCH_BOX(&attention_backward<&cuda::backward<false>>));
}

}  // namespace ptmkernels::attention
