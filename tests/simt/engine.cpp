#include "engine.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fibre.h"

namespace ptmkernels::simt::emulation {

namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kGuardBytes = 4096;
constexpr int kSeveral = -2;
constexpr size_t kMaxReports = 16;
constexpr uint64_t kTogether = ~uint64_t{0};  // the writer of what atomic operations changed
constexpr unsigned char kPoison = 0xff;       // NaN in every floating type

std::string place(const Where& where) {
  const char* name = std::strrchr(where.file_name(), '/');
  return std::string(name ? name + 1 : where.file_name()) + ":" + std::to_string(where.line());
}

std::string bytes_at(int offset, int bytes) {
  return std::to_string(bytes) + " bytes at shared offset " + std::to_string(offset);
}

}  // namespace

Engine& Engine::get() {
  static Engine engine;
  return engine;
}

Engine::Engine() : memory_(new char[kMaxSharedBytes]), cells_(kMaxSharedBytes / kGranule) {
  const size_t bytes = kMaxThreads * (kStackBytes + kGuardBytes);
  void* stacks = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stacks == MAP_FAILED) {
    std::perror("the emulation could not map its stacks");
    std::abort();
  }
  stacks_ = static_cast<char*>(stacks);
  for (int i = 0; i < kMaxThreads; ++i) {
    mprotect(stacks_ + i * (kStackBytes + kGuardBytes), kGuardBytes, PROT_NONE);
  }
}

void Engine::launch(int64_t blocks, int threads, int shared_bytes,
                    const std::function<void()>& body) {
  if (threads % kWarp || threads < kWarp || threads > kMaxThreads ||
      shared_bytes > kMaxSharedBytes) {
    report(Where(), "a block cannot have " + std::to_string(threads) + " threads and " +
                        std::to_string(shared_bytes) + " bytes of shared memory");
    return;
  }
  for (Buffer& buffer : buffers_) std::fill(buffer.writer.begin(), buffer.writer.end(), 0);
  shared_bytes_ = shared_bytes;
  for (block_ = 0; block_ < blocks && reports_.size() < kMaxReports; ++block_) {
    run_block(threads, body);
  }
}

void Engine::run_block(int threads, const std::function<void()>& body) {
  body_ = &body;
  thread_count_ = running_ = threads;
  at_barrier_ = 0;
  first_epoch_ = ++epoch_;
  std::memset(memory_.get(), kPoison, shared_bytes_);
  warps_.assign(threads / kWarp, Warp{});
  for (Warp& warp : warps_) warp.runnable = ~0u;
  threads_.resize(threads);
  for (int i = 0; i < threads; ++i) {
    threads_[i] = Thread{};
    threads_[i].index = i;
    start_fibre(threads_[i]);
  }
  current_ = &threads_[0];
  switch_stack(&main_stack_pointer_, current_->stack_pointer);
}

void Engine::start_fibre(Thread& thread) {
  char* low = stacks_ + thread.index * (kStackBytes + kGuardBytes) + kGuardBytes;
  thread.stack_pointer = new_context(low, kStackBytes, &Engine::fibre_main);
}

void Engine::fibre_main() {
  Engine& engine = get();
  (*engine.body_)();
  engine.finish_thread();
}

void Engine::finish_thread() {
  for (const Copy& copy : current_->copies) {
    report(Where(), "a thread ends with a copy of " + bytes_at(copy.offset, copy.bytes) +
                        " that it never waited for");
  }
  current_->done = true;
  --running_;
  warps_[current_warp()].runnable &= ~(1u << current_lane());
  switch_away();
}

void Engine::switch_away() {
  Thread* from = current_;
  Thread* to = next_runnable();
  if (to == nullptr) {
    if (running_ > 0) report_deadlock();
    switch_stack(&from->stack_pointer, main_stack_pointer_);
    return;
  }
  current_ = to;
  switch_stack(&from->stack_pointer, to->stack_pointer);
}

// The next lane of the same warp that can go on, else the first one of another warp.
Thread* Engine::next_runnable() {
  const int warps = static_cast<int>(warps_.size());
  const int warp = current_warp();
  const uint32_t later = warps_[warp].runnable & ~((2u << current_lane()) - 1);
  if (later) return &threads_[warp * kWarp + std::countr_zero(later)];
  for (int i = 0; i < warps; ++i) {
    const int other = (warp + i) % warps;
    const uint32_t lanes = warps_[other].runnable;
    if (lanes) return &threads_[other * kWarp + std::countr_zero(lanes)];
  }
  return nullptr;
}

void Engine::report_deadlock() {
  for (const Thread& thread : threads_) {
    if (thread.done) continue;
    report(thread.waits_at, "deadlock: thread " + std::to_string(thread.index) + " of block " +
                                std::to_string(block_) + " waits for ever in " + thread.waits_for);
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
  if (++at_barrier_ == thread_count_) {
    release_barrier();
    return;
  }
  warps_[current_warp()].runnable &= ~(1u << current_lane());
  switch_away();
}

void Engine::release_barrier() {
  for (const Thread& thread : threads_) {
    if (thread.waits_at.line() != current_->waits_at.line()) {
      report(thread.waits_at, "threads of one block meet at different barriers, here and at " +
                                  place(current_->waits_at));
      break;
    }
  }
  at_barrier_ = 0;
  ++epoch_;
  for (Warp& warp : warps_) warp.runnable = ~0u;
}

void Engine::collective(const char* operation, void* mine, void (*apply)(void* const* lanes),
                        const Where& where) {
  Warp& warp = warps_[current_warp()];
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
    return;
  }
  warp.runnable &= ~(1u << current_lane());
  switch_away();
}

void Engine::warp_barrier(const Where& where) {
  if (is_deleted("warp barrier", where)) return;
  collective(
      "warp_barrier", nullptr,
      [](void* const*) {
        Engine& engine = get();
        ++engine.warps_[engine.current_warp()].epoch;
      },
      where);
}

bool Engine::shared_access_fits(const char* what, int offset, int bytes, const Where& where) {
  if (offset < 0 || offset + bytes > shared_bytes_) {
    report(where, std::string(what) + " of " + bytes_at(offset, bytes) + " of " +
                      std::to_string(shared_bytes_));
    return false;
  }
  if (offset % bytes) {
    report(where, std::string(what) + " of " + bytes_at(offset, bytes) + " is not aligned");
  }
  return true;
}

// True where the last write of a cell comes before whatever the current thread does now.
bool Engine::write_is_ordered(const Cell& cell) const {
  if (cell.write_epoch < epoch_ || cell.writer == current_->index) return true;
  const int warp = current_warp();
  return cell.writer / kWarp == warp && cell.write_warp_epoch < warps_[warp].epoch;
}

void* Engine::read_shared(int offset, int bytes, const Where& where) {
  static char nothing[16] = {};
  if (!shared_access_fits("a read", offset, bytes, where)) return nothing;
  const int thread = current_->index, warp = current_warp();
  const uint32_t warp_epoch = warps_[warp].epoch;
  for (int g = offset / kGranule; g <= (offset + bytes - 1) / kGranule; ++g) {
    Cell& cell = cells_[g];
    if (cell.write_epoch < first_epoch_) {
      report(where, "thread " + std::to_string(thread) + " reads " + bytes_at(offset, bytes) +
                        ", which nothing wrote");
      break;
    }
    if (cell.in_flight || !write_is_ordered(cell)) {
      report(where, std::string(cell.in_flight ? "read before the copy has arrived" : "race") +
                        ": thread " + std::to_string(thread) + " reads " + bytes_at(offset, bytes) +
                        " that thread " + std::to_string(cell.writer) + " wrote at line " +
                        std::to_string(cell.write_line));
      break;
    }
    if (cell.read_epoch != epoch_) {
      cell.read_epoch = epoch_;
      cell.reader_warp = warp;
      cell.read_warp_epoch = warp_epoch;
      cell.read_lanes = 0;
    } else if (cell.reader_warp != warp) {
      cell.reader_warp = kSeveral;
    } else if (cell.read_warp_epoch != warp_epoch) {
      cell.read_warp_epoch = warp_epoch;
      cell.read_lanes = 0;
    }
    cell.read_lanes |= 1u << current_lane();
  }
  return memory_.get() + offset;
}

void* Engine::write_shared(int offset, int bytes, const Where& where) {
  static char nothing[16];
  if (!shared_access_fits("a write", offset, bytes, where)) return nothing;
  mark_write(offset, bytes, false, where);
  return memory_.get() + offset;
}

void Engine::mark_write(int offset, int bytes, bool in_flight, const Where& where) {
  const int thread = current_->index, warp = current_warp();
  const uint32_t warp_epoch = warps_[warp].epoch;
  for (int g = offset / kGranule; g <= (offset + bytes - 1) / kGranule; ++g) {
    Cell& cell = cells_[g];
    const bool written = cell.write_epoch >= first_epoch_;
    if (written && (cell.in_flight || !write_is_ordered(cell))) {
      report(where, "race: thread " + std::to_string(thread) + " writes " +
                        bytes_at(offset, bytes) + " that thread " + std::to_string(cell.writer) +
                        " wrote at line " + std::to_string(cell.write_line));
      return;
    }
    const bool only_mine = (cell.read_lanes & ~(1u << current_lane())) == 0;
    const bool read_ordered =
        cell.reader_warp == warp && (cell.read_warp_epoch < warp_epoch || only_mine);
    if (cell.read_epoch == epoch_ && !read_ordered) {
      report(where, "race: thread " + std::to_string(thread) + " writes " +
                        bytes_at(offset, bytes) + " that another thread reads");
      return;
    }
    cell.write_epoch = epoch_;
    cell.write_warp_epoch = warp_epoch;
    cell.write_line = where.line();
    cell.writer = thread;
    cell.in_flight = in_flight;
    cell.reader_warp = -1;
    cell.read_epoch = 0;
  }
}

void Engine::copy_async(int offset, int bytes, const void* source, const Where& where) {
  if (!shared_access_fits("a copy", offset, bytes, where)) return;
  mark_write(offset, bytes, true, where);
  if (source != nullptr) source = read_global(source, bytes, where);
  current_->copies.push_back({offset, bytes, source, current_->group});
}

void Engine::copy_wait(int open_groups, const Where& where) {
  if (is_deleted("copy wait", where)) return;
  const int closed = current_->group - open_groups;
  std::vector<Copy>& copies = current_->copies;
  auto rest = std::stable_partition(copies.begin(), copies.end(),
                                    [closed](const Copy& copy) { return copy.group < closed; });
  for (auto copy = copies.begin(); copy != rest; ++copy) land(*copy);
  copies.erase(copies.begin(), rest);
}

void Engine::land(const Copy& copy) {
  char* target = memory_.get() + copy.offset;
  if (copy.source != nullptr) {
    std::memcpy(target, copy.source, copy.bytes);
  } else {
    std::memset(target, 0, copy.bytes);
  }
  for (int g = copy.offset / kGranule; g < (copy.offset + copy.bytes) / kGranule; ++g) {
    cells_[g].in_flight = false;
    cells_[g].write_epoch = epoch_;
    cells_[g].write_warp_epoch = warps_[current_warp()].epoch;
  }
}

void Engine::declare(const void* address, size_t bytes, bool writable) {
  const auto* begin = static_cast<const char*>(address);
  for (Buffer& buffer : buffers_) {
    if (buffer.begin <= begin && begin + bytes <= buffer.end) {
      if (writable && !buffer.writable) {
        buffer.writable = true;
        buffer.writer.assign((buffer.end - buffer.begin) / kGranule + 1, 0);
      }
      return;
    }
  }
  Buffer buffer{begin, begin + bytes, writable, {}};
  if (writable) buffer.writer.assign(bytes / kGranule + 1, 0);
  buffers_.push_back(std::move(buffer));
}

Buffer* Engine::find_buffer(const char* what, const void* address, int bytes, const Where& where) {
  const auto* begin = static_cast<const char*>(address);
  if (reinterpret_cast<uintptr_t>(begin) % bytes) {
    report(where, std::string(what) + " of " + std::to_string(bytes) + " bytes is not aligned");
  }
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const size_t index = (last_buffer_ + i) % buffers_.size();
    Buffer& buffer = buffers_[index];
    if (buffer.begin <= begin && begin + bytes <= buffer.end) {
      last_buffer_ = index;
      return &buffer;
    }
  }
  report(where, std::string(what) + " of " + std::to_string(bytes) + " bytes by thread " +
                    std::to_string(current_->index) + " of block " + std::to_string(block_) +
                    " lies outside of every buffer");
  return nullptr;
}

const void* Engine::read_global(const void* address, int bytes, const Where& where) {
  static const char nothing[16] = {};
  Buffer* buffer = find_buffer("a global read", address, bytes, where);
  if (buffer == nullptr) return nothing;
  if (!buffer->writable) return address;
  const uint64_t me = static_cast<uint64_t>(block_) * kMaxThreads + current_->index + 1;
  const auto offset = static_cast<const char*>(address) - buffer->begin;
  const uint64_t writer = buffer->writer[offset / kGranule];
  if (writer != 0 && writer != me) {
    report(where, "race: a global read of what another thread of the launch wrote");
  }
  return address;
}

void* Engine::write_global(void* address, int bytes, const Where& where) {
  static char nothing[16];
  Buffer* buffer = find_buffer("a global write", address, bytes, where);
  if (buffer == nullptr) return nothing;
  if (!buffer->writable) {
    report(where, "a global write to a buffer that is only read");
    return nothing;
  }
  const uint64_t me = static_cast<uint64_t>(block_) * kMaxThreads + current_->index + 1;
  const auto offset = static_cast<const char*>(address) - buffer->begin;
  for (int64_t g = offset / kGranule; g <= (offset + bytes - 1) / kGranule; ++g) {
    if (buffer->writer[g] != 0 && buffer->writer[g] != me) {
      report(where, "race: two threads of a launch write the same global memory");
      break;
    }
    buffer->writer[g] = me;
  }
  return address;
}

void* Engine::share_global(void* address, int bytes, bool changes, const Where& where) {
  static char nothing[16];
  const char* what = changes ? "an atomic operation" : "a global read";
  Buffer* buffer = find_buffer(what, address, bytes, where);
  if (buffer == nullptr) return nothing;
  if (!buffer->writable) {
    if (!changes) return address;
    report(where, "an atomic operation on a buffer that is only read");
    return nothing;
  }
  const auto offset = static_cast<const char*>(address) - buffer->begin;
  for (int64_t g = offset / kGranule; g <= (offset + bytes - 1) / kGranule; ++g) {
    if (buffer->writer[g] != 0 && buffer->writer[g] != kTogether) {
      report(where, std::string("race: ") + what + " where a thread of the launch stored");
      break;
    }
    if (changes) buffer->writer[g] = kTogether;
  }
  return address;
}

}  // namespace ptmkernels::simt::emulation
