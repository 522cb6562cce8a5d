// What the training step of word vectors is launched with, and how a warp's scratch memory is laid
// out.
#pragma once

#include "common/simt.h"
#include "word_vectors/step.h"

namespace ptmkernels::word_vectors::cuda {

using namespace simt;

constexpr int kStretch = 64;        // kept words
constexpr int kFrequentWords = 64;  // that do not stay in the ring
constexpr int kTileRows = 4;        // contexts; with kGroup outputs a pair for each lane
constexpr int64_t kLossEvery = 64;  // the loss is taken from one window in so many

// Where the rows of a warp's scratch memory lie: `contexts` rows that are trained (with CBOW their
// mean alone), what they were (skip-gram), the outputs and what they were, and the changes of the
// contexts by several groups of outputs.
struct Layout {
  int contexts, outputs;
  bool cbow, groups;  // more than one group of outputs

  SIMT_HOST_FN int before() const { return contexts; }
  SIMT_HOST_FN int output() const { return cbow ? contexts : 2 * contexts; }
  SIMT_HOST_FN int output_before() const { return output() + outputs; }
  SIMT_HOST_FN int error() const { return output() + 2 * outputs; }
  SIMT_HOST_FN int rows() const { return error() + (groups ? contexts : 0); }
};

struct StepParams {
  StepOptions options;
  const int64_t* seed;   // (1,)
  const int64_t* count;  // (1,): kept words; of each of them (plan.cuh)
  const int32_t* word;
  const int64_t* place;
  const int64_t* first;
  Layout layout;
  int64_t stretches, blocks;
  float* workspace;    // (blocks, rows, D); null: the rows lie in shared memory
  double* statistics;  // (4,): StepStatistics
};

}  // namespace ptmkernels::word_vectors::cuda
