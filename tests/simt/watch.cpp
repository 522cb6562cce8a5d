// What the engine watches: shared memory, copies into it, and global memory.

#include <algorithm>
#include <cstring>

#include "engine.h"

namespace ptmkernels::simt::emulation {

namespace {

constexpr int kSeveral = -2;
constexpr uint64_t kTogether = ~uint64_t{0};  // the writer of what atomic operations changed

std::string bytes_at(int offset, int bytes) {
  return std::to_string(bytes) + " bytes at shared offset " + std::to_string(offset);
}

}  // namespace

bool Engine::shared_access_fits(const char* what, int offset, int bytes, const Where& where) {
  if (offset < 0 || offset + bytes > block_->shared_bytes) {
    report(where, std::string(what) + " of " + bytes_at(offset, bytes) + " of " +
                      std::to_string(block_->shared_bytes));
    return false;
  }
  if (offset % bytes) {
    report(where, std::string(what) + " of " + bytes_at(offset, bytes) + " is not aligned");
  }
  return true;
}

// True where the last write of a cell comes before whatever the current thread does now.
bool Engine::write_is_ordered(const Cell& cell) const {
  if (cell.write_epoch < block_->epoch || cell.writer == current_->index) return true;
  const int warp = current_warp();
  return cell.writer / kWarp == warp && cell.write_warp_epoch < block_->warps[warp].epoch;
}

void* Engine::read_shared(int offset, int bytes, const Where& where) {
  static char nothing[16] = {};
  if (!shared_access_fits("a read", offset, bytes, where)) return nothing;
  const int thread = current_->index, warp = current_warp();
  const uint32_t warp_epoch = block_->warps[warp].epoch;
  for (int g = offset / kGranule; g <= (offset + bytes - 1) / kGranule; ++g) {
    Cell& cell = block_->cells[g];
    if (cell.write_epoch < block_->first_epoch) {
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
    if (cell.read_epoch != block_->epoch) {
      cell.read_epoch = block_->epoch;
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
  return block_->memory.data() + offset;
}

void* Engine::write_shared(int offset, int bytes, const Where& where) {
  static char nothing[16];
  if (!shared_access_fits("a write", offset, bytes, where)) return nothing;
  mark_write(offset, bytes, false, where);
  return block_->memory.data() + offset;
}

void Engine::mark_write(int offset, int bytes, bool in_flight, const Where& where) {
  const int thread = current_->index, warp = current_warp();
  const uint32_t warp_epoch = block_->warps[warp].epoch;
  for (int g = offset / kGranule; g <= (offset + bytes - 1) / kGranule; ++g) {
    Cell& cell = block_->cells[g];
    const bool written = cell.write_epoch >= block_->first_epoch;
    if (written && (cell.in_flight || !write_is_ordered(cell))) {
      report(where, "race: thread " + std::to_string(thread) + " writes " +
                        bytes_at(offset, bytes) + " that thread " + std::to_string(cell.writer) +
                        " wrote at line " + std::to_string(cell.write_line));
      return;
    }
    const bool only_mine = (cell.read_lanes & ~(1u << current_lane())) == 0;
    const bool read_ordered =
        cell.reader_warp == warp && (cell.read_warp_epoch < warp_epoch || only_mine);
    if (cell.read_epoch == block_->epoch && !read_ordered) {
      report(where, "race: thread " + std::to_string(thread) + " writes " +
                        bytes_at(offset, bytes) + " that another thread reads");
      return;
    }
    cell.write_epoch = block_->epoch;
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

void Engine::report_open_copies() {
  for (const Copy& copy : current_->copies) {
    report(Where(), "a thread ends with a copy of " + bytes_at(copy.offset, copy.bytes) +
                        " that it never waited for");
  }
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
  char* target = block_->memory.data() + copy.offset;
  if (copy.source != nullptr) {
    std::memcpy(target, copy.source, copy.bytes);
  } else {
    std::memset(target, 0, copy.bytes);
  }
  for (int g = copy.offset / kGranule; g < (copy.offset + copy.bytes) / kGranule; ++g) {
    block_->cells[g].in_flight = false;
    block_->cells[g].write_epoch = block_->epoch;
    block_->cells[g].write_warp_epoch = warp().epoch;
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
                    std::to_string(current_->index) + " of block " + std::to_string(block_->index) +
                    " lies outside of every buffer");
  return nullptr;
}

const void* Engine::read_global(const void* address, int bytes, const Where& where) {
  give_way();
  static const char nothing[16] = {};
  Buffer* buffer = find_buffer("a global read", address, bytes, where);
  if (buffer == nullptr) return nothing;
  if (!buffer->writable) return address;
  const uint64_t me = static_cast<uint64_t>(block_->index) * kMaxThreads + current_->index + 1;
  const auto offset = static_cast<const char*>(address) - buffer->begin;
  const uint64_t writer = buffer->writer[offset / kGranule];
  if (writer != 0 && writer != me) {
    report(where, "race: a global read of what another thread of the launch wrote");
  }
  return address;
}

void* Engine::write_global(void* address, int bytes, const Where& where) {
  give_way();
  static char nothing[16];
  Buffer* buffer = find_buffer("a global write", address, bytes, where);
  if (buffer == nullptr) return nothing;
  if (!buffer->writable) {
    report(where, "a global write to a buffer that is only read");
    return nothing;
  }
  const uint64_t me = static_cast<uint64_t>(block_->index) * kMaxThreads + current_->index + 1;
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
  give_way();
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
