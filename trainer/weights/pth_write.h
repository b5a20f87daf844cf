/* Writing PyTorch files: an object of dictionaries, lists, numbers, texts and tensors, as a pickle
 * of protocol 2 that torch.load(weights_only=True) takes, in a zip archive. Calls follow the
 * object from the outside in:
 *
 *   pth_writer_open(&w)
 *   pth_begin_dict(&w);
 *     pth_text(&w, "epoch"); pth_integer(&w, 3);
 *     pth_text(&w, "model"); pth_begin_state_dict(&w);
 *       pth_text(&w, "norm.weight"); pth_tensor(&w, &record);
 *     pth_end_dict(&w);
 *   pth_end_dict(&w);
 *   pth_writer_commit(&w, path)
 *
 * Records are borrowed until commit, which is when their bytes are taken, one at a time. Two of the
 * same data are one storage in the file. A failure (no memory) is kept and told by commit. */
#ifndef IBOT_TRAINER_WEIGHTS_PTH_WRITE_H
#define IBOT_TRAINER_WEIGHTS_PTH_WRITE_H

#include "trainer/weights/weight_record.h"

struct pth_writer {
    unsigned char *pickle;
    size_t n_bytes, capacity;
    const struct weight_record **records; /* one for each storage */
    size_t n_records, records_capacity;
    enum status status; /* of the first failure */
};

void pth_writer_open(struct pth_writer *out);
void pth_begin_dict(struct pth_writer *writer);
void pth_begin_state_dict(struct pth_writer *writer); /* an OrderedDict */
void pth_end_dict(struct pth_writer *writer);
void pth_begin_list(struct pth_writer *writer);
void pth_end_list(struct pth_writer *writer);
void pth_begin_tuple(struct pth_writer *writer);
void pth_end_tuple(struct pth_writer *writer);
void pth_text(struct pth_writer *writer, const char *text);
void pth_integer(struct pth_writer *writer, int64_t value);
void pth_real(struct pth_writer *writer, double value);
void pth_truth(struct pth_writer *writer, bool value);
void pth_none(struct pth_writer *writer);
void pth_tensor(struct pth_writer *writer, const struct weight_record *record);

/* Writes the archive, atomically. Errors: STATUS_IO, STATUS_NO_MEMORY, those of reading. */
enum status pth_writer_commit(struct pth_writer *writer, const char *path) IBOT_WARN_UNUSED;
void pth_writer_close(struct pth_writer *writer);

#endif
