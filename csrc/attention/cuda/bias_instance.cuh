// The definition of BiasInstance (instance.h).
#pragma once

#include "attention/cuda/bias_gradient.cuh"
#include "attention/cuda/instance.h"

namespace ptmkernels::attention::cuda {

template <typename T, bool kRelative>
void BiasInstance<T, kRelative>::gradient(const Queue& queue, const BiasGradientParams& params) {
  using Kernel = BiasGradientKernel<T, kRelative>;
  launch<Kernel>(queue, Kernel::blocks(params), params);
}

}  // namespace ptmkernels::attention::cuda
