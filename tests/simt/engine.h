// The emulation's engine: runs the threads of blocks as fibres and watches what they do
// (README.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "fibre.h"

namespace ptmkernels::simt::emulation {

using Where = std::source_location;

constexpr int kWarp = 32;
constexpr int kMaxThreads = 512;
constexpr int kMaxSharedBytes = 232448;  // of one block on sm_90
constexpr int kGranule = 2;              // bytes: the unit of shared memory that is watched

// What happened last to two bytes of shared memory. Epochs count the barriers of a launch, so they
// tell whether a barrier lies between two accesses; warp epochs count those of one warp as well.
struct Cell {
  uint32_t write_epoch = 0;
  uint32_t write_warp_epoch = 0;
  uint32_t write_line = 0;
  int32_t writer = -1;
  bool in_flight = false;  // an asynchronous copy that its thread has not waited for
  uint32_t read_epoch = 0;
  uint32_t read_warp_epoch = 0;
  uint32_t read_lanes = 0;
  int32_t reader_warp = -1;  // kSeveral: of more than one warp
};

// A piece of global memory that a kernel may touch, with the thread that wrote each granule last.
struct Buffer {
  const char* begin;
  const char* end;
  bool writable;
  std::vector<uint64_t> writer;
};

struct Copy {
  int offset;
  int bytes;
  const void* source;  // null: zeros
  int group;
};

struct Thread {
  void* stack_pointer = nullptr;
  int index = 0;
  bool done = false;
  const char* waits_for = nullptr;  // for the report of a deadlock
  Where waits_at;
  std::vector<Copy> copies;
  int group = 0;
};

struct Warp {
  uint32_t epoch = 0;
  uint32_t runnable = 0;  // one bit for each lane
  int arrived = 0;
  const char* operation = nullptr;
  Where where;
  void* slots[kWarp];
};

// A block that is being run: its threads and the shared memory that they have.
struct Block {
  // Gets `threads` new threads, all of which begin with `entry`, and unwritten shared memory.
  void start(int64_t index, int threads, int shared_bytes, void (*entry)());

  int64_t index = 0;
  int shared_bytes = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<char> memory;
  std::vector<Cell> cells;
  Stacks stacks;
  Thread* current = nullptr;  // the thread to go on with
  int at_barrier = 0;
  int running = 0;     // threads that have not ended
  uint32_t epoch = 0;  // never reset: older than the block's first means unwritten
  uint32_t first_epoch = 0;
  bool finished = false;
};

// A place in a kernel's source that orders memory: a barrier, a warp barrier or a wait for copies.
struct Site {
  std::string kind;
  std::string file;
  uint32_t line;

  bool operator==(const Site&) const = default;
};

class Engine {
 public:
  static Engine& get();

  // Runs `body` once for each thread of each block. blocks_of_multiprocessor: that run there at
  // once.
  void launch(int64_t blocks, int blocks_of_multiprocessor, int threads, int shared_bytes,
              const std::function<void()>& body);

  // From now on the blocks that this many multiprocessors hold run at the same time, in an order
  // that is drawn at random.
  void interleave(int multiprocessors, uint64_t seed);
  // From now on the blocks run one after the other.
  void run_in_order();
  int multiprocessors() const { return multiprocessors_; }

  int thread_index() const { return current_->index; }
  int64_t block_index() const { return block_->index; }
  void barrier(const Where& where);
  void warp_barrier(const Where& where);
  // Waits for the whole warp; the last lane to come runs `apply` over what all of them brought.
  void collective(const char* operation, void* mine, void (*apply)(void* const* lanes),
                  const Where& where);

  void* read_shared(int offset, int bytes, const Where& where);
  void* write_shared(int offset, int bytes, const Where& where);
  const void* read_global(const void* address, int bytes, const Where& where);
  void* write_global(void* address, int bytes, const Where& where);
  // Memory that threads of a launch change together: by what is atomic alone.
  void* share_global(void* address, int bytes, bool changes, const Where& where);
  void copy_async(int offset, int bytes, const void* source, const Where& where);
  void copy_commit() { ++current_->group; }
  void copy_wait(int open_groups, const Where& where);

  void declare(const void* address, size_t bytes, bool writable);
  void forget_buffers() { buffers_.clear(); }
  void clear_reports() { reports_.clear(); }
  const std::vector<std::string>& reports() const { return reports_; }
  const std::vector<Site>& sites() const { return sites_; }
  void clear_sites() { sites_.clear(); }
  void delete_site(const Site& site) { deleted_ = site; }

 private:
  static constexpr int kFewMultiprocessors = 4;

  Block& waiting_block();
  void run(Block& block);
  static void fibre_main();
  void finish_thread();
  void switch_away();
  void give_way();
  Thread* next_runnable();
  void release_barrier();
  void report_open_copies();
  uint64_t random(uint64_t below);
  bool is_deleted(const char* kind, const Where& where);
  void land(const Copy& copy);
  bool shared_access_fits(const char* what, int offset, int bytes, const Where& where);
  bool write_is_ordered(const Cell& cell) const;
  void mark_write(int offset, int bytes, bool in_flight, const Where& where);
  Buffer* find_buffer(const char* what, const void* address, int bytes, const Where& where);
  void report_deadlock();
  void report(const Where& where, const std::string& text);

  int current_warp() const { return current_->index / kWarp; }
  int current_lane() const { return current_->index % kWarp; }

  Warp& warp() { return block_->warps[current_warp()]; }

  std::vector<std::unique_ptr<Block>> blocks_;  // that run, then those that wait to be used again
  size_t running_ = 0;                          // of them
  Block* block_ = nullptr;
  Thread* current_ = nullptr;  // of that block
  void* main_stack_pointer_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  int multiprocessors_ = kFewMultiprocessors;
  bool interleaved_ = false;
  uint64_t random_ = 1;
  std::vector<Buffer> buffers_;
  size_t last_buffer_ = 0;
  std::vector<Site> sites_;
  Site deleted_{};  // of no kind: none
  std::vector<std::string> reports_;
};

}  // namespace ptmkernels::simt::emulation
