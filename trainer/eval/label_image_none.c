/* A build without libpng. */
#include "trainer/eval/label_image.h"

enum status label_image_decode(struct label_image *out, const void *bytes, size_t n_bytes)
{
    (void)bytes;
    (void)n_bytes;
    *out = (struct label_image){0};
    FAIL(STATUS_UNSUPPORTED, "this build reads no images of labels: it lacks libpng");
}

enum status label_image_write(const struct label_image *image, const char *path)
{
    (void)image;
    FAIL(STATUS_UNSUPPORTED, "'%s': this build writes no images of labels: it lacks libpng", path);
}
