/* Builds without libvips (IBOT_PARTIAL) draw SVG alone. */
#include "trainer/plot.h"

enum status plot_png(const char *out_path, const char *svg_path)
{
    FAIL(STATUS_UNSUPPORTED,
         "'%s': this build is without libvips; '%s' is there for a browser or rsvg-convert",
         out_path, svg_path);
}
