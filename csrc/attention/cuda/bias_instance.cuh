// The definition of BiasInstance (instance.h).
#pragma once

#include "attention/cuda/bias_gradient.cuh"
#include "attention/cuda/instance.h"

namespace ptmkernels::attention::cuda {

template <typename T>
void BiasInstance<T>::gradient(const Queue& queue, const BiasGradientParams& params) {
  using Kernel = BiasGradientKernel<T>;
  launch<Kernel>(queue, Kernel::blocks(params), params);
}

}  // namespace ptmkernels::attention::cuda
