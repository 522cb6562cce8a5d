#include "corpus/bpe.h"

#include <algorithm>
#include <limits>
#include <string_view>

namespace ptmkernels {
namespace {

const std::string kWordEnd = "</w>";

// The characters of a UTF-8 word, the last one marked.
std::vector<std::string> characters(std::string_view word) {
  std::vector<std::string> symbols;
  for (const char c : word) {
    if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) symbols.emplace_back();
    symbols.back() += c;
  }
  symbols.back() += kWordEnd;
  return symbols;
}

using Symbol = int32_t;
using Word = std::vector<Symbol>;
using Pair = uint64_t;
using Counts = std::unordered_map<Pair, int64_t>;

Pair pair_of(Symbol first, Symbol second) {
  return static_cast<uint64_t>(static_cast<uint32_t>(first)) << 32 | static_cast<uint32_t>(second);
}
Symbol first_of(Pair pair) { return static_cast<Symbol>(pair >> 32); }
Symbol second_of(Pair pair) { return static_cast<Symbol>(pair & 0xffffffff); }

// The statistics of pairs as subword-nmt keeps them, its approximations included: they decide which
// pair comes next where a merge writes a symbol that an earlier one could write, too.
class Learner {
 public:
  explicit Learner(const std::vector<std::pair<std::string, int64_t>>& words) {
    for (const auto& [text, count] : words) {
      Word word;
      for (const std::string& symbol : characters(text)) word.push_back(intern(symbol));
      words_.push_back(std::move(word));
      counts_.push_back(count);
    }
    for (size_t w = 0; w < words_.size(); ++w) {
      for (size_t i = 0; i + 1 < words_[w].size(); ++i) {
        change(words_[w][i], words_[w][i + 1], w, counts_[w], 1);
      }
    }
    all_ = recent_;
    for (const auto& entry : recent_) {
      threshold_ = std::max(threshold_, static_cast<double>(entry.second) / 10);
    }
  }

  // The pair to be merged at this step, or false where none is frequent enough.
  bool best(int64_t step, int64_t min_frequency, Pair& pair) {
    if (all_.empty() && recent_.empty()) return false;
    const bool any = !recent_.empty();
    if (any) pair = most_frequent();
    if (!any || (step > 0 && static_cast<double>(recent_[pair]) < threshold_)) {
      prune();
      recent_ = all_;
      pair = most_frequent();
      const auto n = static_cast<double>(step);
      threshold_ = static_cast<double>(recent_[pair]) * n / (n + 10000.0);
      prune();
    }
    return recent_[pair] >= min_frequency;
  }

  void merge(int64_t step, Pair pair) {
    const Symbol joined = intern(names_[first_of(pair)] + names_[second_of(pair)]);
    const auto places = std::move(where_[pair]);
    where_.erase(pair);
    recent_[pair] = 0;
    for (const auto& [w, occurrences] : places) {
      if (occurrences < 1) continue;
      const Word before = words_[w];
      words_[w] = joined_word(before, pair, joined);
      retract(before, pair, w);
      announce(words_[w], joined, w);
    }
    recent_[pair] = 0;
    if (step % 100 == 0) prune();
  }

  Merge names(Pair pair) const { return {names_[first_of(pair)], names_[second_of(pair)]}; }

 private:
  Symbol intern(const std::string& name) {
    const auto [it, fresh] = ids_.emplace(name, static_cast<Symbol>(names_.size()));
    if (fresh) names_.push_back(name);
    return it->second;
  }

  bool larger(Pair a, Pair b) const {
    const int order = names_[first_of(a)].compare(names_[first_of(b)]);
    return order ? order > 0 : names_[second_of(a)] > names_[second_of(b)];
  }

  Pair most_frequent() const {
    auto best = recent_.begin();
    for (auto it = recent_.begin(); it != recent_.end(); ++it) {
      if (it->second > best->second ||
          (it->second == best->second && larger(it->first, best->first))) {
        best = it;
      }
    }
    return best->first;
  }

  // Keeps the table that is searched small: rare pairs wait in the full one.
  void prune() {
    for (auto it = recent_.begin(); it != recent_.end();) {
      if (static_cast<double>(it->second) >= threshold_) {
        ++it;
        continue;
      }
      if (it->second < 0) {
        all_[it->first] += it->second;
      } else {
        all_[it->first] = it->second;
      }
      it = recent_.erase(it);
    }
  }

  void change(Symbol first, Symbol second, size_t word, int64_t count, int64_t occurrences) {
    const Pair pair = pair_of(first, second);
    recent_[pair] += count;
    where_[pair][word] += occurrences;
  }

  static Word joined_word(const Word& word, Pair pair, Symbol joined) {
    Word result;
    for (size_t i = 0; i < word.size(); ++i) {
      const bool here = i + 1 < word.size() && pair_of(word[i], word[i + 1]) == pair;
      result.push_back(here ? joined : word[i]);
      i += here;
    }
    return result;
  }

  // Takes away the pairs that a merged pair had with its neighbours.
  void retract(const Word& word, Pair pair, size_t w) {
    const size_t size = word.size();
    for (size_t i = 0; i + 1 < size; ++i) {
      if (pair_of(word[i], word[i + 1]) != pair) continue;
      if (i > 0) change(word[i - 1], word[i], w, -counts_[w], -1);
      if (i + 2 < size) {
        const bool again = i + 3 < size && pair_of(word[i + 2], word[i + 3]) == pair;
        if (!again) change(word[i + 1], word[i + 2], w, -counts_[w], -1);
      }
      ++i;
    }
  }

  // Adds those of the joined symbol, wherever it stands.
  void announce(const Word& word, Symbol joined, size_t w) {
    for (size_t i = 0; i < word.size(); ++i) {
      if (word[i] != joined) continue;
      if (i > 0) change(word[i - 1], joined, w, counts_[w], 1);
      if (i + 1 < word.size() && word[i + 1] != joined) {
        change(joined, word[i + 1], w, counts_[w], 1);
      }
    }
  }

  std::vector<std::string> names_;
  std::unordered_map<std::string, Symbol> ids_;
  std::vector<Word> words_;
  std::vector<int64_t> counts_;
  std::unordered_map<Pair, std::unordered_map<size_t, int64_t>> where_;
  Counts recent_;  // the frequent pairs, and those that changed since they were last pruned
  Counts all_;
  double threshold_ = 0;
};

}  // namespace

std::vector<Merge> learn_bpe(const std::vector<std::pair<std::string, int64_t>>& words,
                             int64_t merges, int64_t min_frequency,
                             const std::function<void(int64_t)>& progress) {
  Learner learner(words);
  std::vector<Merge> learned;
  Pair pair;
  while (static_cast<int64_t>(learned.size()) < merges) {
    const auto step = static_cast<int64_t>(learned.size());
    if (!learner.best(step, min_frequency, pair)) break;
    learned.push_back(learner.names(pair));
    learner.merge(step, pair);
    if (progress && step % 100 == 0) progress(step + 1);
  }
  return learned;
}

BytePairEncoder::BytePairEncoder(const std::vector<Merge>& merges) {
  for (size_t m = 0; m < merges.size(); ++m) {
    ranks_.emplace(merges[m].first + ' ' + merges[m].second, static_cast<int64_t>(m));
  }
}

std::vector<std::string> BytePairEncoder::split(const std::string& word) const {
  if (word.empty()) return {};
  std::vector<std::string> symbols = characters(word);
  while (symbols.size() > 1) {
    int64_t best = std::numeric_limits<int64_t>::max();
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = ranks_.find(symbols[i] + ' ' + symbols[i + 1]);
      if (it != ranks_.end()) best = std::min(best, it->second);
    }
    if (best == std::numeric_limits<int64_t>::max()) break;
    std::vector<std::string> joined;
    for (size_t i = 0; i < symbols.size(); ++i) {
      joined.push_back(symbols[i]);
      if (i + 1 == symbols.size()) break;
      const auto it = ranks_.find(symbols[i] + ' ' + symbols[i + 1]);
      if (it != ranks_.end() && it->second == best) joined.back() += symbols[++i];
    }
    symbols = std::move(joined);
  }
  symbols.back().resize(symbols.back().size() - kWordEnd.size());
  if (symbols.back().empty()) symbols.pop_back();
  return symbols;
}

}  // namespace ptmkernels
