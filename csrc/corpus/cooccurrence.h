// Co-occurrence counts over a stream of word ids, for GloVe (Pennington et al. 2014, section 4.2).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ptmkernels {

struct Cooccurrence {
  int32_t row, column;
  double value;
};

struct CooccurrenceOptions {
  int window;          // words to the left
  bool symmetric;      // also count (context, word), else (word, left context) alone
  bool weighted;       // a pair d words apart counts 1 / d, else 1
  int64_t memory;      // bytes for the counts; what exceeds it goes to sorted run files
  std::string folder;  // where those lie
};

class CooccurrenceCounter {
 public:
  explicit CooccurrenceCounter(const CooccurrenceOptions& options);
  ~CooccurrenceCounter();
  CooccurrenceCounter(const CooccurrenceCounter&) = delete;
  CooccurrenceCounter& operator=(const CooccurrenceCounter&) = delete;

  // Counts the pairs of a piece of text. A negative id ends a sentence; so does the end of the
  // piece.
  void add(const int32_t* ids, int64_t count);

  // All counts, by row, then column. The counter is empty afterwards.
  std::vector<Cooccurrence> take();

  // Writes all counts to a file in random order (a uniform shuffle by `seed`), holding no more than
  // the allowed memory, and returns their number. The counter is empty afterwards.
  int64_t write_shuffled(const std::string& path, uint64_t seed);

  int64_t runs() const { return static_cast<int64_t>(run_files_.size()); }

 private:
  struct Cell {
    uint64_t key;  // (row << 32 | column) + 1, 0 = free
    double value;
  };

  void count(int32_t row, int32_t column, double value);
  void grow_or_spill();
  std::vector<Cooccurrence> sorted_cells();
  void spill();
  template <class Take>
  void merge(const Take& take);

  CooccurrenceOptions options_;
  std::vector<Cell> cells_;
  size_t used_ = 0;
  std::vector<std::string> run_files_;
};

}  // namespace ptmkernels
