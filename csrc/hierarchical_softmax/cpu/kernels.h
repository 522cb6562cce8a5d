// What a decision at an inner node gives to its two branches, for many nodes at once: one table of
// kernels for each instruction set that this build carries.
#pragma once

#include <stdint.h>

namespace ptmkernels {

// From logits x (count,): `zero` belongs to code bit 0, of probability sigmoid(x), `one` to bit 1.
struct BranchKernels {
  // zero = log sigmoid(x), one = log sigmoid(-x).
  void (*log_probabilities)(float* zero, float* one, const float* x, int64_t count);
  // zero = sigmoid(x), one = sigmoid(-x).
  void (*probabilities)(float* zero, float* one, const float* x, int64_t count);
};

// Defined in variant_<arch>.cpp.
extern const BranchKernels kGenericBranches;
extern const BranchKernels kWideBranches;
extern const BranchKernels kAvx2Branches;
extern const BranchKernels kAvx512Branches;

// The table for this machine (common/cpu_arch.h).
const BranchKernels& branch_kernels();

}  // namespace ptmkernels
