/* A loader process for tests: fleet_loader ENDPOINT [ENDPOINT]. Serves until it is killed, or its
 * parent is. */
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include "tests/proto/wire/fleet.h"

int main(int argc, char **argv)
{
    struct fleet_options options = fleet_options(argc > 1 ? argv[1] : "");

    if (argc < 2 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return 2;
    if (argc > 2)
        options.endpoints[options.n_endpoints++] = argv[2];
    struct fleet_loader *loader = fleet_loader_open(&options);
    enum status status = fleet_loader_join(loader);
    fleet_loader_close(&loader);
    return status == STATUS_OK ? 0 : 1;
}
