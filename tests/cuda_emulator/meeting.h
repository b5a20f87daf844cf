/* Memory that the ranks of one communicator share, and how they pass pieces of a collective through
 * it.
 *
 *   | nonce, world | rank 0: present, device; posted, taken; piece 0, piece 1 | rank 1: … | …
 *   | rank 0: bytes of piece 0, of piece 1 | rank 1: … | …
 *
 * It is a file without a name, kept open by the process that made the id, which says where to find
 * it
 * (/proc/PID/fd/N): when the processes have ended, however they ended, it is gone. Nothing in it is
 * a lock, so that a rank that is killed leaves the others waiting, as with NCCL, and no worse.
 *
 * Pieces are counted from the start. A rank posts its piece n into place n mod 2 when all have
 * taken piece n - 2, and takes piece n from all when all have posted it. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_MEETING_H
#define IBOT_TESTS_CUDA_EMULATOR_MEETING_H

#include <stddef.h>
#include <stdint.h>

#include <atomic>

namespace emulator
{
enum { MOST_RANKS = 16, PIECE_BYTES = 256 << 10 };

/* What a rank says that it does: all must say the same. */
struct piece_label {
    int32_t kind, type, op, root;
    uint64_t captured;
    uint64_t number; /* of the collective */
    uint64_t count;
    uint64_t first; /* element */
};

struct meeting_rank {
    std::atomic<int32_t> present; /* after what follows was written */
    int32_t device;
    uint64_t host; /* a hash of its name */
    std::atomic<uint64_t> posted, taken;
    std::atomic<int32_t> finalized;
    piece_label labels[2];
};

struct meeting {
    uint64_t nonce;
    std::atomic<int32_t> world; /* of the first who came; 0: nobody has */
    meeting_rank ranks[MOST_RANKS];
    alignas(64) char bytes[MOST_RANKS][2][PIECE_BYTES];
};

/* Where it is: goes through an ncclUniqueId. */
struct meeting_place {
    uint64_t magic, nonce;
    int32_t process, file;
};

/* Makes one. The file is to be kept open until all have come. */
bool meeting_make(meeting_place *place);
/* Maps it; null: there is none any more, or it never was one. */
meeting *meeting_open(const meeting_place &place);
void meeting_close(meeting *m);
} // namespace emulator

#endif
