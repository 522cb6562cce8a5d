#include "corpus/cooccurrence.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <queue>
#include <random>

#include "corpus/text_blocks.h"

namespace ptmkernels {
namespace {

constexpr size_t kFirstCells = 1 << 16;

uint64_t key_of(const Cooccurrence& entry) {
  return static_cast<uint64_t>(static_cast<uint32_t>(entry.row)) << 32 |
         static_cast<uint32_t>(entry.column);
}

void write(const std::vector<Cooccurrence>& entries, std::FILE* file, const std::string& path) {
  if (std::fwrite(entries.data(), sizeof(Cooccurrence), entries.size(), file) != entries.size()) {
    throw_file_error(path);
  }
}

// A sorted run, read entry by entry (the C library buffers).
struct Run {
  std::string path;
  File file;
  Cooccurrence entry{};

  bool advance() {
    if (std::fread(&entry, sizeof entry, 1, file.get()) == 1) return true;
    if (std::ferror(file.get())) throw_file_error(path);
    return false;
  }
};

}  // namespace

CooccurrenceCounter::CooccurrenceCounter(const CooccurrenceOptions& options)
    : options_(options), cells_(kFirstCells) {}

CooccurrenceCounter::~CooccurrenceCounter() {
  for (const std::string& path : run_files_) std::remove(path.c_str());
}

void CooccurrenceCounter::add(const int32_t* ids, int64_t count_of_ids) {
  int64_t start = 0;  // of the sentence
  for (int64_t i = 0; i < count_of_ids; ++i) {
    if (ids[i] < 0) {
      start = i + 1;
      continue;
    }
    for (int64_t j = i - 1; j >= std::max(start, i - options_.window); --j) {
      const double value = options_.weighted ? 1.0 / static_cast<double>(i - j) : 1.0;
      count(ids[i], ids[j], value);
      if (options_.symmetric) count(ids[j], ids[i], value);
    }
  }
}

void CooccurrenceCounter::count(int32_t row, int32_t column, double value) {
  const uint64_t key = key_of({row, column, 0}) + 1;
  const uint64_t hash = key * 0x9E3779B97F4A7C15u;
  size_t cell = (hash >> 20) & (cells_.size() - 1);
  while (cells_[cell].key && cells_[cell].key != key) cell = (cell + 1) & (cells_.size() - 1);
  if (!cells_[cell].key) {
    cells_[cell].key = key;
    ++used_;
  }
  cells_[cell].value += value;
  if (used_ * 3 > cells_.size() * 2) grow_or_spill();
}

void CooccurrenceCounter::grow_or_spill() {
  // Growing holds the old and the new table at once.
  const size_t grown = cells_.size() * 3 * sizeof(Cell);
  if (static_cast<int64_t>(grown) > options_.memory) return spill();
  const std::vector<Cooccurrence> entries = sorted_cells();
  cells_.assign(cells_.size() * 2, Cell{});
  for (const Cooccurrence& entry : entries) count(entry.row, entry.column, entry.value);
}

std::vector<Cooccurrence> CooccurrenceCounter::sorted_cells() {
  std::vector<Cooccurrence> entries;
  entries.reserve(used_);
  for (const Cell& cell : cells_) {
    if (!cell.key) continue;
    const uint64_t key = cell.key - 1;
    entries.push_back({static_cast<int32_t>(key >> 32), static_cast<int32_t>(key), cell.value});
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return key_of(a) < key_of(b); });
  std::fill(cells_.begin(), cells_.end(), Cell{});
  used_ = 0;
  return entries;
}

void CooccurrenceCounter::spill() {
  std::string path = options_.folder + "/cooccurrence-XXXXXX";
  const int descriptor = mkstemp(path.data());
  if (descriptor < 0) throw_file_error(path);
  run_files_.push_back(path);
  const File file(fdopen(descriptor, "wb"));
  if (!file) throw_file_error(path);
  write(sorted_cells(), file.get(), path);
  if (std::fflush(file.get())) throw_file_error(path);
}

// Calls take(entry) for each pair once, in order of row and column.
template <class Take>
void CooccurrenceCounter::merge(const Take& take) {
  spill();
  std::vector<Run> runs;
  for (const std::string& path : run_files_) runs.push_back({path, open_file(path, "rb"), {}});
  auto later = [&runs](size_t a, size_t b) {
    const uint64_t key_a = key_of(runs[a].entry), key_b = key_of(runs[b].entry);
    return key_a != key_b ? key_a > key_b : a > b;
  };
  std::priority_queue<size_t, std::vector<size_t>, decltype(later)> queue(later);
  for (size_t r = 0; r < runs.size(); ++r) {
    if (runs[r].advance()) queue.push(r);
  }
  while (!queue.empty()) {
    Cooccurrence sum = runs[queue.top()].entry;
    sum.value = 0;
    while (!queue.empty() && key_of(runs[queue.top()].entry) == key_of(sum)) {
      const size_t r = queue.top();
      queue.pop();
      sum.value += runs[r].entry.value;
      if (runs[r].advance()) queue.push(r);
    }
    take(sum);
  }
  for (const std::string& path : run_files_) std::remove(path.c_str());
  run_files_.clear();
}

std::vector<Cooccurrence> CooccurrenceCounter::take() {
  if (run_files_.empty()) return sorted_cells();
  std::vector<Cooccurrence> entries;
  merge([&](const Cooccurrence& entry) { entries.push_back(entry); });
  return entries;
}

int64_t CooccurrenceCounter::write_shuffled(const std::string& path, uint64_t seed) {
  std::mt19937_64 random(seed);
  const File output = open_file(path, "wb");
  // Each entry goes to a random pile; a pile fits in memory and is shuffled there: together a
  // uniform shuffle. There are twice as many piles as would do, since their sizes vary.
  const int64_t entries_at_most = (runs() + 1) * static_cast<int64_t>(cells_.size());
  const auto pile_count = static_cast<size_t>(
      2 * entries_at_most * static_cast<int64_t>(sizeof(Cooccurrence)) / options_.memory + 1);
  std::vector<File> piles;
  for (size_t p = 0; p < pile_count; ++p) {
    piles.emplace_back(std::tmpfile());
    if (!piles.back()) throw_file_error(path);
  }
  int64_t total = 0;
  merge([&](const Cooccurrence& entry) {
    std::FILE* pile = piles[random() % pile_count].get();
    if (std::fwrite(&entry, sizeof entry, 1, pile) != 1) throw_file_error(path);
    ++total;
  });
  for (const File& pile : piles) {
    std::vector<Cooccurrence> entries(static_cast<size_t>(std::ftell(pile.get())) /
                                      sizeof(Cooccurrence));
    std::rewind(pile.get());
    if (std::fread(entries.data(), sizeof(Cooccurrence), entries.size(), pile.get()) !=
        entries.size()) {
      throw_file_error(path);
    }
    std::shuffle(entries.begin(), entries.end(), random);
    write(entries, output.get(), path);
  }
  if (std::fflush(output.get())) throw_file_error(path);
  return total;
}

}  // namespace ptmkernels
