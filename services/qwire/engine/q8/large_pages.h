// Large pages: while weights pass by, a look at the page table for each 4 KB of them costs a tenth of the bandwidth.

#pragma once

#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

// Asks for them, before the memory is written to. A wish: no matter if it fails.
inline void ask_for_large_pages(void *memory, int64_t bytes) {
#if defined(__linux__)
  const uintptr_t page = 4096, from = (reinterpret_cast<uintptr_t>(memory) + page - 1) & ~(page - 1);
  const uintptr_t to = (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes)) & ~(page - 1);
  if (to > from) madvise(reinterpret_cast<void *>(from), to - from, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

} // namespace
