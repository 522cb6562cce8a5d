#include "attention/cuda/instance.cuh"
template struct ptmkernels::attention::cuda::Instance<float, 128>;
