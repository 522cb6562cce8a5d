// Small kernels whose behaviour is known, to test the emulation itself (test_emulation.py): some
// are right, each of the others does one thing that it must report.

#include <cstring>
#include <map>
#include <string>

#include "common/simt.h"

#define SIMT_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace ptmkernels::simt;
using emulation::Engine;

constexpr int kThreads = 64, kNumbers = 256;
// What lies behind the output belongs to no buffer.
struct alignas(16) Memory {
  float input[kNumbers], output[kNumbers], beyond[kNumbers];
} memory;
float* const input = memory.input;
float* const output = memory.output;

Shared<float> numbers() { return shared_memory<float>(0); }
int me() { return thread_index(); }
void copy_mine() { copy_async<Bytes4>(numbers(), me(), input + me()); }

// output[i] = input[kThreads - 1 - i], through shared memory.
template <bool kBarrier>
void reverse() {
  numbers().store(me(), load_global(input + me()));
  if (kBarrier) barrier();
  store_global(output + me(), numbers().load(kThreads - 1 - me()));
}

template <bool kBarrier>
void reverse_in_warp() {
  numbers().store(me(), load_global(input + me()));
  if (kBarrier) warp_barrier();
  store_global(output + me(), numbers().load(me() ^ (kWarpSize - 1)));
}

template <bool kWait, bool kBarrier>
void reverse_copied() {
  copy_mine();
  copy_commit();
  if (kWait) copy_wait<0>();
  if (kBarrier) barrier();
  store_global(output + me(), numbers().load(kThreads - 1 - me()));
  if (!kWait) copy_wait<0>();
}

// The older of two groups has arrived, the younger has not.
template <int kOpen>
void two_groups() {
  copy_mine();
  copy_commit();
  copy_async<Bytes4>(numbers(), kThreads + me(), input + me());
  copy_commit();
  copy_wait<kOpen>();
  store_global(output + me(),
               numbers().load(me()) + (kOpen ? 0.0f : numbers().load(kThreads + me())));
  copy_wait<0>();
}

void write_after_read() {
  numbers().store(me(), 1.0f);
  barrier();
  const float got = numbers().load(kThreads - 1 - me());
  numbers().store(me(), got);
}

void both_write() { numbers().store(0, 1.0f); }

void copy_over_read() {
  numbers().store(me(), 1.0f);
  barrier();
  store_global(output + me(), numbers().load(kThreads - 1 - me()));
  copy_mine();
  copy_commit();
  copy_wait<0>();
}

void copy_of_zeros() {
  copy_async<Bytes4>(numbers(), me(), input + me(), me() % 2 == 0);
  copy_commit();
  copy_wait<0>();
  store_global(output + me(), numbers().load(me()));
}

void sums_of_warps() {
  float sum = load_global(input + me());
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  const uint32_t odd = ballot(me() % 2 == 1);
  store_global(output + me(), odd == 0xaaaaaaaau ? sum : -1.0f);
}

void reads_unwritten() {
  if (me() > 0) numbers().store(me(), 1.0f);
  barrier();
  store_global(output + me(), numbers().load(me()));
}

void forgets_a_copy() { copy_mine(); }
void skips_a_barrier() {
  if (me() != 5) barrier();
}
void other_barriers() {
  if (me() < 7) {
    barrier();
  } else {
    barrier();
  }
}
void diverges() {
  if (lane_index() < 9) {
    shuffle_xor(1, 1);
  } else {
    ballot(true);
  }
}
void ends_before_a_shuffle() {
  if (lane_index() != 3) shuffle_xor(1, 1);
}
void beyond_shared() { numbers().store(kNumbers + me(), 1.0f); }
void misaligned_shared() { numbers().store_as<Bytes8>(2 * me() + 1, Bytes8{0, 0}); }
void beyond_global() { store_global(output + kNumbers + me(), 1.0f); }
void misaligned_global() {
  load_global(reinterpret_cast<const Bytes16*>(input + 4 * me() % 128 + 1));
}
void writes_input() { store_global(input + me(), 1.0f); }
void all_write_global() { store_global(output, 1.0f); }
void reads_what_others_wrote() {
  store_global(output + me(), 1.0f);
  barrier();
  load_global(output + kThreads - 1 - me());
}

// The last two numbers of the output are one integer, -1 before.
void counts_together() {
  auto* last = reinterpret_cast<uint64_t*>(output + 62);
  uint64_t old = load_current(last);
  while (true) {
    const uint64_t seen = compare_and_swap(last, old, old + 1);
    if (seen == old) break;
    old = seen;
  }
}
void adds_and_stores() {
  if (me() == 0) store_global(output, 1.0f);
  if (me() == 1) atomic_add(output, 1.0f);
}
void adds_and_reads() {
  atomic_add(output, 1.0f);
  load_global(output);
}
void adds_to_input() { atomic_add(input + me(), 1.0f); }

// Each block has its own part of the output, and all of them the same place in shared memory.
template <bool kBarrier>
void blocks_reverse() {
  const int first = static_cast<int>(block_index()) * kThreads;
  numbers().store(me(), load_global(input + first + me()));
  if (kBarrier) barrier();
  store_global(output + first + me(), numbers().load(kThreads - 1 - me()));
}

// Each block reads a number, and later makes it one larger if it is still the same: -1 before.
void blocks_count() {
  auto* count = reinterpret_cast<uint64_t*>(output);
  const uint64_t old = load_current(count);
  for (int i = 0; i < 20; ++i) barrier();
  if (me() == 0) compare_and_swap(count, old, old + 1);
}

const std::map<std::string, void (*)()> kExamples = {
    {"reverse", reverse<true>},
    {"reverse in warp", reverse_in_warp<true>},
    {"reverse copied", reverse_copied<true, true>},
    {"two groups", two_groups<0>},
    {"older group", two_groups<1>},
    {"copy of zeros", copy_of_zeros},
    {"sums of warps", sums_of_warps},
    {"no barrier", reverse<false>},
    {"no warp barrier", reverse_in_warp<false>},
    {"no copy wait", reverse_copied<false, true>},
    {"no barrier after the wait", reverse_copied<true, false>},
    {"write after read", write_after_read},
    {"both write", both_write},
    {"copy over read", copy_over_read},
    {"reads unwritten", reads_unwritten},
    {"forgets a copy", forgets_a_copy},
    {"skips a barrier", skips_a_barrier},
    {"other barriers", other_barriers},
    {"diverges", diverges},
    {"ends before a shuffle", ends_before_a_shuffle},
    {"beyond shared", beyond_shared},
    {"misaligned shared", misaligned_shared},
    {"beyond global", beyond_global},
    {"misaligned global", misaligned_global},
    {"writes input", writes_input},
    {"all write global", all_write_global},
    {"reads what others wrote", reads_what_others_wrote},
    {"counts together", counts_together},
    {"adds and stores", adds_and_stores},
    {"adds and reads", adds_and_reads},
    {"adds to input", adds_to_input},
    {"blocks reverse", blocks_reverse<true>},
    {"blocks reverse, no barrier", blocks_reverse<false>},
    {"blocks count", blocks_count},
};

// c[16 x 8] = a[16 x k] b[8 x k]^T of `size`-byte elements, by the fragments of one warp.
struct Product {
  std::string type;
  int depth;
  const void* a;
  const void* b;
  float* c;
};

// Rows of two 16-byte chunks, for a step of the product.
void place_step(const void* rows, int count, int row_bytes, int step, int offset) {
  const int row = lane_index() / 2, chunk = lane_index() % 2;
  if (row >= count) return;
  Bytes16 bytes;
  std::memcpy(&bytes, static_cast<const char*>(rows) + row * row_bytes + step * 32 + chunk * 16,
              16);
  shared_memory<float>(offset).store_as<Bytes16>(row * 8 + chunk * 4, bytes);
}

void multiply(const Product& p) {
  const bool half = p.type != "tf32";
  const int row_bytes = p.depth * (half ? 2 : 4);
  const int lane = lane_index();
  const auto left = shared_memory<float>(0), right = shared_memory<float>(16 * 32);
  float acc[4] = {};
  for (int step = 0; step < row_bytes / 32; ++step) {
    place_step(p.a, 16, row_bytes, step, 0);
    place_step(p.b, 8, row_bytes, step, 16 * 32);
    warp_barrier();
    uint32_t a[4], both[4];
    load_matrices(a, left, lane % 16 * 8 + lane / 16 * 4);
    load_matrices(both, right, lane % 8 * 8 + lane / 8 % 2 * 4);
    const uint32_t b[2] = {both[0], both[1]};
    if (p.type == "bfloat16") mma_bf16(acc, a, b);
    if (p.type == "float16") mma_f16(acc, a, b);
    if (p.type == "tf32") mma_tf32(acc, a, b);
    warp_barrier();
  }
  for (int e = 0; e < 4; ++e) p.c[(lane / 4 + e / 2 * 8) * 8 + lane % 4 * 2 + e % 2] = acc[e];
}

}  // namespace

// Runs an example over blocks of kThreads threads with kNumbers numbers of shared memory; false
// where there is no such example. input[i] = i; output is NaN before.
SIMT_EXPORT bool simt_run_example(const char* name, int64_t blocks) {
  const auto found = kExamples.find(name);
  if (found == kExamples.end()) return false;
  for (int i = 0; i < kNumbers; ++i) input[i] = static_cast<float>(i);
  std::memset(memory.output, 0xff, sizeof(memory.output));
  Engine& engine = Engine::get();
  engine.forget_buffers();
  engine.declare(input, sizeof(memory.input), false);
  engine.declare(output, sizeof(memory.output), true);
  engine.launch(blocks, 1, kThreads, kNumbers * 4, found->second);
  return true;
}

SIMT_EXPORT const float* simt_example_output() { return output; }

SIMT_EXPORT void simt_multiply(const char* type, int depth, const void* a, const void* b,
                               float* c) {
  const Product product{type, depth, a, b, c};
  Engine::get().launch(1, 1, kWarpSize, 24 * 32, [&product] { multiply(product); });
}
