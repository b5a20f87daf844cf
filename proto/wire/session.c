/* Leases: a ring of slices, and for each loader the few leases in its hands. Everything is scanned
 * in order; windows are some hundreds of slices and leases some thousands a second at most. */
#include "proto/wire/session.h"

#include <string.h>

#include "proto/base/memory.h"

enum {
    NOBODY = -1,
    SETTLED_LEASES = 16, /* returned ones after which their mean time says something */
    MAX_RESTS = 6,       /* after which they do not get longer */
    TROUBLED = 2,        /* copies that came to nothing: now a loader with merits is wanted */
};
static const int64_t hedge_least_ns = 1000000000; /* younger leases are never made twice */
static const int64_t hedge_factor = 4;            /* times the usual age of a lease */
static const int64_t rest_least_ns = 2000000000;  /* of a loader that was late */

struct slice {
    bool done;
    bool issued;    /* leased at least once */
    int32_t n_open; /* leases of it that are not late */
    int32_t avoid;  /* the loader whose copy came to nothing last, or NOBODY */
    int32_t n_bad;  /* copies that came to nothing */
};

struct lease {
    uint64_t slice;
    int64_t issued_ns;
    bool late;
};

struct loader {
    bool joined;
    bool delivered; /* at least once */
    int32_t credit, n_leases, n_late;
    int32_t n_rests;                         /* since it delivered on time */
    int64_t rest_ns;                         /* until then */
    struct lease leases[SESSION_MAX_CREDIT]; /* in order of issue */
};

struct session {
    int32_t window;
    int64_t timeout_ns;
    uint64_t base, allowed; /* [base, allowed) have a place */
    int64_t usual_ns;       /* running mean of the time from lease to done */
    uint64_t n_settled;
    struct session_counts counts;
    int32_t turn;      /* ties go round */
    int32_t n_loaders; /* entries in use, joined or not */
    struct loader *loaders;
    size_t loader_capacity;
    struct slice slices[]; /* ring: slice id mod window */
};

enum status session_open(struct session **out, int32_t window, int64_t lease_timeout_ns)
{
    struct session *session;

    CHECK(window > 0 && lease_timeout_ns > 0);
    TRY(memory_alloc(&session, 1, sizeof(*session) + (size_t)window * sizeof(struct slice),
                     "leases"));
    session->window = window;
    session->timeout_ns = lease_timeout_ns;
    *out = session;
    return STATUS_OK;
}

void session_close(struct session **session)
{
    if (session == NULL || *session == NULL)
        return;
    memory_free((*session)->loaders);
    memory_free(*session);
    *session = NULL;
}

static struct slice *slice_at(const struct session *session, uint64_t id)
{
    CHECK(id >= session->base && id < session->allowed);
    return (struct slice *)(uintptr_t)&session->slices[id % (uint64_t)session->window];
}

static struct loader *loader_at(const struct session *session, int32_t number)
{
    CHECK(number >= 0 && number < session->n_loaders && session->loaders[number].joined);
    return &session->loaders[number];
}

/* Its lease on the slice, or NULL. */
static struct lease *find_lease(struct loader *loader, uint64_t id)
{
    for (int32_t i = 0; i < loader->n_leases; i++)
        if (loader->leases[i].slice == id)
            return &loader->leases[i];
    return NULL;
}

static bool has_place(const struct session *session, uint64_t id)
{
    return id >= session->base && id < session->allowed;
}

/* The lease is in no hands any more. */
static void end_lease(struct session *session, struct loader *loader, struct lease *lease)
{
    if (lease->late)
        loader->n_late--;
    else if (has_place(session, lease->slice))
        slice_at(session, lease->slice)->n_open--;
    size_t after = (size_t)(&loader->leases[loader->n_leases] - (lease + 1));
    memmove(lease, lease + 1, after * sizeof(*lease));
    loader->n_leases--;
    session->counts.n_leases--;
}

/* ---- loaders ---- */

int32_t session_join(struct session *session, int32_t credit)
{
    int32_t number = 0;

    CHECK(credit >= 1 && credit <= SESSION_MAX_CREDIT);
    while (number < session->n_loaders && session->loaders[number].joined)
        number++;
    if (number == SESSION_MAX_LOADERS ||
        memory_grow(&session->loaders, &session->loader_capacity, (size_t)number + 1,
                    sizeof(struct loader), "loaders") != STATUS_OK)
        return NOBODY;
    struct loader *loader = &session->loaders[number];
    *loader = (struct loader){.joined = true, .credit = credit};
    if (number == session->n_loaders)
        session->n_loaders++;
    session->counts.n_loaders++;
    return number;
}

void session_leave(struct session *session, int32_t number)
{
    struct loader *loader = loader_at(session, number);

    while (loader->n_leases > 0)
        end_lease(session, loader, &loader->leases[loader->n_leases - 1]);
    loader->joined = false;
    session->counts.n_loaders--;
    /* The number may be given to another one, which nobody has reason to avoid. */
    for (uint64_t id = session->base; id < session->allowed; id++)
        if (slice_at(session, id)->avoid == number)
            slice_at(session, id)->avoid = NOBODY;
}

/* ---- slices ---- */

void session_start(struct session *session, uint64_t first_slice)
{
    CHECK(session->base == session->allowed);
    session->base = session->allowed = first_slice;
}

void session_allow(struct session *session, uint64_t limit)
{
    CHECK(limit >= session->allowed && limit - session->base <= (uint64_t)session->window);
    while (session->allowed < limit) {
        session->allowed++;
        *slice_at(session, session->allowed - 1) = (struct slice){.avoid = NOBODY};
    }
}

void session_skip(struct session *session, uint64_t slice)
{
    CHECK(!slice_at(session, slice)->issued);
    slice_at(session, slice)->done = true;
}

void session_advance(struct session *session, uint64_t base)
{
    CHECK(base >= session->base && base <= session->allowed);
    for (; session->base < base; session->base++)
        CHECK(slice_at(session, session->base)->done, "a slice was passed over");
}

/* ---- leasing ---- */

static void rest(struct loader *loader, int64_t now_ns)
{
    loader->rest_ns = now_ns + (rest_least_ns << loader->n_rests);
    if (loader->n_rests < MAX_RESTS)
        loader->n_rests++;
}

/* Marks leases older than the limit as late, so that their slices are free. */
static void mark_late(struct session *session, int64_t now_ns, int64_t limit_ns)
{
    for (int32_t i = 0; i < session->n_loaders; i++) {
        struct loader *loader = &session->loaders[i];
        bool was_late = false;
        if (!loader->joined)
            continue;
        for (int32_t j = 0; j < loader->n_leases; j++) {
            struct lease *lease = &loader->leases[j];
            if (lease->late || now_ns - lease->issued_ns < limit_ns)
                continue;
            lease->late = was_late = true;
            loader->n_late++;
            if (has_place(session, lease->slice))
                slice_at(session, lease->slice)->n_open--;
        }
        if (was_late)
            rest(loader, now_ns);
    }
}

/* True when a should get the next slice rather than b: first one that is on time, then the one with
 * the smaller share of its credit in use. */
static bool rather(const struct loader *a, const struct loader *b)
{
    if ((a->n_late > 0) != (b->n_late > 0))
        return a->n_late == 0;
    return (int64_t)a->n_leases * b->credit < (int64_t)b->n_leases * a->credit;
}

/* Only when there is no other: it rests, it failed at this very slice, or the slice is troubled and
 * the loader a stranger. */
static bool second_choice(const struct session *session, int32_t number, const struct slice *slice,
                          int64_t now_ns)
{
    const struct loader *loader = &session->loaders[number];

    return number == slice->avoid || now_ns < loader->rest_ns ||
           (slice->n_bad >= TROUBLED && !loader->delivered);
}

/* The best loader for this slice, or NOBODY. A second choice gets it only when no first one is
 * likely to come free for it. */
static int32_t choose_loader(struct session *session, uint64_t id, int64_t now_ns)
{
    const struct slice *slice = slice_at(session, id);
    int32_t best = NOBODY, second = NOBODY;
    bool others_to_come = false;

    for (int32_t k = 0; k < session->n_loaders; k++) {
        int32_t i = (int32_t)(((int64_t)session->turn + k) % session->n_loaders);
        struct loader *loader = &session->loaders[i];
        if (!loader->joined || find_lease(loader, id) != NULL)
            continue;
        bool is_second = second_choice(session, i, slice, now_ns);
        int32_t *place = is_second ? &second : &best;
        if (loader->n_leases >= loader->credit)
            others_to_come |= !is_second && loader->n_late == 0;
        else if (*place == NOBODY || (i != slice->avoid && *place == slice->avoid) ||
                 (i != slice->avoid && rather(loader, &session->loaders[*place])))
            *place = i;
    }
    return best != NOBODY || others_to_come ? best : second;
}

static bool find_pair(struct session *session, int32_t *number, uint64_t *id, int64_t now_ns)
{
    bool spare = false;

    for (int32_t i = 0; i < session->n_loaders && !spare; i++) {
        const struct loader *loader = &session->loaders[i];
        spare = loader->joined && loader->n_leases < loader->credit;
    }
    for (*id = session->base; spare && *id < session->allowed; ++*id) {
        const struct slice *slice = slice_at(session, *id);
        if (slice->done || slice->n_open > 0)
            continue;
        *number = choose_loader(session, *id, now_ns);
        if (*number != NOBODY)
            return true;
    }
    return false;
}

bool session_lease(struct session *session, int32_t *number, uint64_t *id, int64_t now_ns)
{
    int32_t chosen;
    uint64_t slice_id;

    mark_late(session, now_ns, session->timeout_ns);
    if (!find_pair(session, &chosen, &slice_id, now_ns)) {
        int64_t hedge_ns = hedge_factor * session->usual_ns;
        hedge_ns = hedge_ns > hedge_least_ns ? hedge_ns : hedge_least_ns;
        if (session->n_settled < SETTLED_LEASES || hedge_ns >= session->timeout_ns)
            return false;
        mark_late(session, now_ns, hedge_ns);
        if (!find_pair(session, &chosen, &slice_id, now_ns))
            return false;
    }
    struct loader *loader = &session->loaders[chosen];
    struct slice *slice = slice_at(session, slice_id);
    loader->leases[loader->n_leases++] = (struct lease){.slice = slice_id, .issued_ns = now_ns};
    slice->n_open++;
    session->counts.n_issued++;
    session->counts.n_reissued += slice->issued;
    session->counts.n_leases++;
    slice->issued = true;
    session->turn = chosen + 1;
    *number = chosen;
    *id = slice_id;
    return true;
}

/* ---- what comes back ---- */

enum session_verdict session_verdict(const struct session *session, int32_t loader, uint64_t slice)
{
    if (find_lease(loader_at(session, loader), slice) == NULL)
        return SESSION_UNKNOWN;
    if (!has_place(session, slice) || slice_at(session, slice)->done)
        return SESSION_DUPLICATE;
    return SESSION_WANTED;
}

void session_done(struct session *session, int32_t number, uint64_t id, int64_t now_ns)
{
    struct loader *loader = loader_at(session, number);
    struct lease *lease = find_lease(loader, id);

    CHECK(lease != NULL && !slice_at(session, id)->done);
    int64_t age_ns = now_ns - lease->issued_ns;
    session->usual_ns += session->n_settled++ == 0 ? age_ns : (age_ns - session->usual_ns) / 8;
    slice_at(session, id)->done = true;
    loader->delivered = true;
    if (!lease->late) {
        loader->n_rests = 0;
        loader->rest_ns = 0;
    }
    end_lease(session, loader, lease);
}

void session_drop(struct session *session, int32_t number, uint64_t id)
{
    struct loader *loader = loader_at(session, number);
    struct lease *lease = find_lease(loader, id);

    CHECK(lease != NULL);
    if (has_place(session, id) && !slice_at(session, id)->done) {
        slice_at(session, id)->avoid = number;
        slice_at(session, id)->n_bad++;
    }
    end_lease(session, loader, lease);
}

int32_t session_leases(const struct session *session, int32_t loader)
{
    return loader_at(session, loader)->n_leases;
}

void session_count(const struct session *session, struct session_counts *out)
{
    *out = session->counts;
}
