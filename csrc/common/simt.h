// The wrapper set that every CUDA kernel of ptmkernels is written in, and nothing else: with nvcc
// it maps to the hardware (simt_cuda.h), with a host compiler to the emulation of the tests, which
// runs the same kernel headers on the CPU and reports races (tests/simt/README.md).
//
// A kernel is a struct
//
//     struct Kernel {
//       static constexpr int kThreads = 128;     // of a block, a multiple of 32
//       static constexpr int kMinBlocks = 2;     // on one multiprocessor, for the register budget
//       static int shared_bytes(const Params&);  // dynamic shared memory
//       SIMT_FN static void run(const Params&);  // what each thread does
//     };
//
// that common/launch.h launches. In `run`:
//
//   thread_index(), lane_index(), warp_index(), block_index()
//   barrier()                     every thread of the block; orders shared memory
//   warp_barrier()                every thread of the warp; orders shared memory within it
//   shuffle(x, lane), shuffle_xor(x, mask), ballot(condition)
//   shared_memory<T>(offset)      a Shared<T> at a byte offset of the block's dynamic shared memory
//   Shared<T>: load(i), store(i, x), load_as<V>(i), store_as<V>(i, x); V has 2, 4, 8 or 16 bytes;
//                                 behind(n), what begins n elements later
//   copy_async<V>(shared, i, p)   global to shared memory while the thread goes on; V as above, at
//                                 least 4 bytes; what is invalid is filled with zeros
//   copy_commit(), copy_wait<N>() close a group of copies; wait until at most N groups are open.
//   Others
//                                 see what arrived after the next barrier
//   load_matrices(shared, i), load_matrices_transposed(shared, i)   ldmatrix.x4
//   mma_bf16, mma_f16, mma_tf32   D = A B + D of a warp, float32 accumulators
//   load_global(p), store_global(p, x)
//   load_current(p)               of memory that other threads change at the same time
//   atomic_add(p, x)              float, double, or four float together
//   compare_and_swap(p, old, x)   2 or 8 bytes; returns what was there
//   stay_here(x)                  x, and what is computed from it is not moved out of a loop
//   exp2_fast, log2_fast, round_tf32, lowest_bit, as_float, as_bits, to_float(x), from_float<T>(x),
//   pack<T>(low, high)
//
// Shared and global memory are reached through these functions only: that is what makes every
// access visible to the emulation.
#pragma once

#ifdef __CUDACC__
#include "common/simt_cuda.h"
#else
#include "simt_emulation.h"
#endif
