#include "engine.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace ptmkernels::simt::emulation {

namespace {

constexpr size_t kMaxReports = 16;
constexpr unsigned char kPoison = 0xff;  // NaN in every floating type
// Of operations on which a block gives way to others, one in so many at random does.
constexpr uint64_t kOperationsOfTurn = 32;

std::string place(const Where& where) {
  const char* name = std::strrchr(where.file_name(), '/');
  return std::string(name ? name + 1 : where.file_name()) + ":" + std::to_string(where.line());
}

}  // namespace

void Block::start(int64_t number, int thread_count, int bytes, void (*entry)()) {
  index = number;
  shared_bytes = bytes;
  at_barrier = 0;
  running = thread_count;
  first_epoch = ++epoch;
  finished = false;
  if (memory.size() < static_cast<size_t>(bytes)) {
    memory.resize(bytes);
    cells.resize(bytes / kGranule + 1);
  }
  std::fill_n(memory.begin(), bytes, static_cast<char>(kPoison));
  warps.assign(thread_count / kWarp, Warp{});
  for (Warp& warp : warps) warp.runnable = ~0u;
  stacks.reserve(thread_count);
  threads.resize(thread_count);
  for (int i = 0; i < thread_count; ++i) {
    threads[i] = Thread{};
    threads[i].index = i;
    threads[i].stack_pointer = new_context(stacks[i], Stacks::kBytes, entry);
  }
  current = &threads[0];
}

Engine& Engine::get() {
  static Engine engine;
  return engine;
}

void Engine::launch(int64_t blocks, int blocks_of_multiprocessor, int threads, int shared_bytes,
                    const std::function<void()>& body) {
  if (threads % kWarp || threads < kWarp || threads > kMaxThreads ||
      shared_bytes > kMaxSharedBytes) {
    report(Where(), "a block cannot have " + std::to_string(threads) + " threads and " +
                        std::to_string(shared_bytes) + " bytes of shared memory");
    return;
  }
  for (Buffer& buffer : buffers_) std::fill(buffer.writer.begin(), buffer.writer.end(), 0);
  body_ = &body;
  const size_t resident = interleaved_ ? multiprocessors_ * blocks_of_multiprocessor : 1;
  int64_t next = 0;
  while (true) {
    while (running_ < resident && next < blocks && reports_.size() < kMaxReports) {
      waiting_block().start(next++, threads, shared_bytes, &Engine::fibre_main);
      ++running_;
    }
    if (running_ == 0) break;
    const size_t turn = random(running_);
    run(*blocks_[turn]);
    if (blocks_[turn]->finished) std::swap(blocks_[turn], blocks_[--running_]);
  }
  blocks_.resize(std::min<size_t>(blocks_.size(), 1));  // many of them are much memory
}

Block& Engine::waiting_block() {
  if (running_ == blocks_.size()) blocks_.push_back(std::make_unique<Block>());
  return *blocks_[running_];
}

// Until the block has finished or gives way.
void Engine::run(Block& block) {
  block_ = &block;
  current_ = block.current;
  switch_stack(&main_stack_pointer_, current_->stack_pointer);
}

void Engine::interleave(int multiprocessors, uint64_t seed) {
  interleaved_ = true;
  multiprocessors_ = multiprocessors;
  random_ = seed * 0x9e3779b97f4a7c15u | 1;
}

void Engine::run_in_order() {
  interleaved_ = false;
  multiprocessors_ = kFewMultiprocessors;
}

// Marsaglia 2003, "Xorshift RNGs".
uint64_t Engine::random(uint64_t below) {
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return random_ % below;
}

void Engine::fibre_main() {
  Engine& engine = get();
  (*engine.body_)();
  engine.finish_thread();
}

void Engine::finish_thread() {
  report_open_copies();
  current_->done = true;
  --block_->running;
  warp().runnable &= ~(1u << current_lane());
  switch_away();
}

void Engine::switch_away() {
  Thread* from = current_;
  Thread* to = next_runnable();
  if (to == nullptr) {
    if (block_->running > 0) report_deadlock();
    block_->finished = true;
    switch_stack(&from->stack_pointer, main_stack_pointer_);
    return;
  }
  current_ = to;
  switch_stack(&from->stack_pointer, to->stack_pointer);
}

// Another block may go on here.
void Engine::give_way() {
  if (!interleaved_ || random(kOperationsOfTurn) > 0) return;
  block_->current = current_;
  switch_stack(&current_->stack_pointer, main_stack_pointer_);
}

// The next lane of the same warp that can go on, else the first one of another warp.
Thread* Engine::next_runnable() {
  std::vector<Thread>& threads = block_->threads;
  const std::vector<Warp>& warps = block_->warps;
  const int count = static_cast<int>(warps.size());
  const int warp = current_warp();
  const uint32_t later = warps[warp].runnable & ~((2u << current_lane()) - 1);
  if (later) return &threads[warp * kWarp + std::countr_zero(later)];
  for (int i = 0; i < count; ++i) {
    const int other = (warp + i) % count;
    const uint32_t lanes = warps[other].runnable;
    if (lanes) return &threads[other * kWarp + std::countr_zero(lanes)];
  }
  return nullptr;
}

void Engine::report_deadlock() {
  for (const Thread& thread : block_->threads) {
    if (thread.done) continue;
    report(thread.waits_at, "deadlock: thread " + std::to_string(thread.index) + " of block " +
                                std::to_string(block_->index) + " waits for ever in " +
                                thread.waits_for);
    return;
  }
}

void Engine::report(const Where& where, const std::string& text) {
  if (reports_.size() < kMaxReports) reports_.push_back(place(where) + ": " + text);
}

// Takes note of a place that orders memory; true where the tests have taken it away.
bool Engine::is_deleted(const char* kind, const Where& where) {
  for (const Site& site : sites_) {
    if (site.line == where.line() && site.kind == kind && site.file == where.file_name()) {
      return site == deleted_;
    }
  }
  sites_.push_back({kind, where.file_name(), where.line()});
  return sites_.back() == deleted_;
}

void Engine::barrier(const Where& where) {
  if (is_deleted("barrier", where)) return;
  current_->waits_for = "a barrier";
  current_->waits_at = where;
  if (++block_->at_barrier == static_cast<int>(block_->threads.size())) {
    release_barrier();
    give_way();
    return;
  }
  warp().runnable &= ~(1u << current_lane());
  switch_away();
}

void Engine::release_barrier() {
  for (const Thread& thread : block_->threads) {
    if (thread.waits_at.line() != current_->waits_at.line()) {
      report(thread.waits_at, "threads of one block meet at different barriers, here and at " +
                                  place(current_->waits_at));
      break;
    }
  }
  block_->at_barrier = 0;
  ++block_->epoch;
  for (Warp& warp : block_->warps) warp.runnable = ~0u;
}

void Engine::collective(const char* operation, void* mine, void (*apply)(void* const* lanes),
                        const Where& where) {
  Warp& warp = this->warp();
  if (warp.arrived == 0) {
    warp.operation = operation;
    warp.where = where;
  } else if (warp.operation != operation || warp.where.line() != where.line()) {
    report(where, std::string("a warp diverges: thread ") + std::to_string(current_->index) +
                      " comes to " + operation + ", others to " + warp.operation + " at " +
                      place(warp.where));
  }
  warp.slots[current_lane()] = mine;
  current_->waits_for = operation;
  current_->waits_at = where;
  if (++warp.arrived == kWarp) {
    warp.arrived = 0;
    warp.runnable = ~0u;
    apply(warp.slots);
    give_way();
    return;
  }
  warp.runnable &= ~(1u << current_lane());
  switch_away();
}

void Engine::warp_barrier(const Where& where) {
  if (is_deleted("warp barrier", where)) return;
  collective("warp_barrier", nullptr, [](void* const*) { ++get().warp().epoch; }, where);
}

}  // namespace ptmkernels::simt::emulation
