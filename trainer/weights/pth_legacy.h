/* Opening a file that torch.save wrote before 1.6; for pth.c. */
#ifndef IBOT_TRAINER_WEIGHTS_PTH_LEGACY_H
#define IBOT_TRAINER_WEIGHTS_PTH_LEGACY_H

#include "trainer/weights/pth.h"

/* Maps file->path, reads the object and finds the storages. On failure the caller releases. */
enum status pth_legacy_open(struct pth *file) IBOT_WARN_UNUSED;

#endif
