// Registers the CUDA kernels of negative_sampling (cuda/op.h) with torch.

#include <torch/csrc/stable/library.h>

#include "negative_sampling/cuda/op.h"

namespace op = ptmkernels::negative_sampling::cuda;

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CUDA, m) {
  m.impl("negative_sampling_forward", TORCH_BOX(&op::negative_sampling_forward));
  m.impl("negative_sampling_backward", TORCH_BOX(&op::negative_sampling_backward));
}
