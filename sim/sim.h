/* sim.h - the simulated environment: nodes and clients in one thread, in virtual time.
 *
 * Everything that happens follows from the seed and the calls below: equal runs have equal hashes,
 * whatever the compiler, the flags or the machine. Only one real thread may use a simulation.
 * Functions that run time may not be called from a client's body or a method. */
#ifndef CHI_SIM_H
#define CHI_SIM_H

#include "base.h"
#include "runtime.h"
#include "sim_disk.h"
#include "sim_fault.h"
#include "sim_net.h"
#include "sim_plan.h"
#include "sim_profile.h"
#include "sim_trace.h"

struct sim;
struct sim_client;

CHI_PRIVATE CHI_UNUSED struct sim *sim_open(uint64_t seed);
/* Ends what still runs, as if killed, and frees everything. */
CHI_PRIVATE CHI_UNUSED void sim_close(struct sim *sim);

/* Virtual nanoseconds; begins at one second. */
CHI_PRIVATE CHI_UNUSED uint64_t sim_now(const struct sim *sim);
/* Over all that has happened, and how many events that were. */
CHI_PRIVATE CHI_UNUSED uint64_t sim_hash(const struct sim *sim);
CHI_PRIVATE CHI_UNUSED uint64_t sim_events(const struct sim *sim);
/* The first thing that must not happen, in words: a leak, memory of nobody; NULL: nothing. */
CHI_PRIVATE CHI_UNUSED const char *sim_failure(const struct sim *sim);
/* The name of the check that it belongs to. */
CHI_PRIVATE const char *sim_failed_check(const struct sim *sim);
/* From now on put receives a line for each event that is worth reading; NULL: nobody does. */
CHI_PRIVATE CHI_UNUSED void sim_transcript(struct sim *sim, chi_put_fn *put, void *arg);
/* From now on sink receives every event, before anything else happens; NULL: nobody does. It may
 * look at the simulation but not change it. */
CHI_PRIVATE CHI_UNUSED void sim_record(struct sim *sim, sim_trace_sink *sink, void *arg);
/* What goes wrong: to be set with the functions of sim_fault.h and, for the network, sim_net.h. */
CHI_PRIVATE CHI_UNUSED struct sim_fault *sim_faults(struct sim *sim);
CHI_PRIVATE CHI_UNUSED struct sim_net *sim_network(struct sim *sim);
/* What things cost: may be changed. */
CHI_PRIVATE CHI_UNUSED struct sim_profile *sim_costs(struct sim *sim);

/* Does what a valid entry says, now, whatever its time. False if there is nothing to do: a node
 * that is to crash isn't there, one that is to start runs or was never prepared. What it did is
 * counted (sim_done) and traced. Not from a client's body or a method. */
CHI_PRIVATE CHI_UNUSED bool sim_do(struct sim *sim, const struct sim_plan_entry *entry);
/* The same at the time of each entry (at once, if it is past). The plan is copied. CHI_ENOMEM. */
CHI_PRIVATE CHI_UNUSED int sim_schedule(struct sim *sim, const struct sim_plan *plan);
/* How often entries of a kind did something. */
CHI_PRIVATE CHI_UNUSED uint64_t sim_done(const struct sim *sim, enum sim_plan_kind kind);

/* Runs events until pred holds (it is asked after each event), until nothing can happen any more,
 * or for limit_ns: then false. */
CHI_PRIVATE CHI_UNUSED bool sim_run_until(struct sim *sim, bool (*pred)(void *arg), void *arg,
                                          uint64_t limit_ns);
CHI_PRIVATE CHI_UNUSED void sim_run_for(struct sim *sim, uint64_t ns);
/* Until every client's body has returned. */
CHI_PRIVATE CHI_UNUSED bool sim_run_idle(struct sim *sim, uint64_t limit_ns);

/* ---- nodes, known by number; a node has its disk before it first starts and ever after */

/* Starts a node and runs time until it serves; thread counts of 0 become two fast workers and a
 * slow one. Its place in the cluster is its number if the configuration has so many hosts; else it
 * is alone. Modules must outlive it. Any error of runtime_open; what a pool failed with;
 * CHI_ETIMEOUT: not within a minute. After an error it does not run. */
CHI_PRIVATE CHI_UNUSED int sim_node_start(struct sim *sim, uint32_t node, const chi_config *config,
                                          const chi_module *const *modules, uint32_t count,
                                          chi_error *err);
/* The same without running time: many start at once. It has come up when its state is
 * RUNTIME_SERVING. An error of runtime_open. */
CHI_PRIVATE CHI_UNUSED int sim_node_begin(struct sim *sim, uint32_t node, const chi_config *config,
                                          const chi_module *const *modules, uint32_t count,
                                          chi_error *err);
/* Tells with what an entry START of a plan begins the node; else it is what it last began with.
 * The configuration, too, must outlive the simulation if plans start nodes. */
CHI_PRIVATE CHI_UNUSED void sim_node_prepare(struct sim *sim, uint32_t node,
                                             const chi_config *config,
                                             const chi_module *const *modules, uint32_t count);
/* Begins to stop the node, if it runs, without running time. */
CHI_PRIVATE CHI_UNUSED void sim_node_ask_to_stop(struct sim *sim, uint32_t node, uint32_t grace_ms);
/* Asks it to stop and runs time until it has: CHI_OK. CHI_EBUSY: it is stuck and goes on. What it
 * then has not given back is a failure. */
CHI_PRIVATE CHI_UNUSED int sim_node_stop(struct sim *sim, uint32_t node, uint32_t grace_ms);
/* It ends at this instant and its links hang up: the machine lost power, and the disk what it
 * hadn't made safe; or only the process was killed. Not from the node's own methods. */
CHI_PRIVATE CHI_UNUSED void sim_node_crash(struct sim *sim, uint32_t node);
CHI_PRIVATE CHI_UNUSED void sim_node_kill(struct sim *sim, uint32_t node);
/* Its threads stand still, whatever they are doing, until resumed; its clock, disk, clients and
 * network go on. Nothing if it is so already, or doesn't run. */
CHI_PRIVATE CHI_UNUSED void sim_node_pause(struct sim *sim, uint32_t node);
CHI_PRIVATE CHI_UNUSED void sim_node_resume(struct sim *sim, uint32_t node);
/* The clocks of the machine, its clients' too, gain ppm (at most 100000 either way) from now on. */
CHI_PRIVATE CHI_UNUSED void sim_node_drift(struct sim *sim, uint32_t node, int32_t ppm);
/* They jump; the monotonic one only ahead. */
CHI_PRIVATE CHI_UNUSED void sim_node_jump(struct sim *sim, uint32_t node, int64_t ns);
/* The core of a node that runs, to look at; NULL. */
CHI_PRIVATE CHI_UNUSED struct runtime *sim_node_runtime(struct sim *sim, uint32_t node);
/* RUNTIME_STOPPED if it does not run. */
CHI_PRIVATE CHI_UNUSED enum runtime_state sim_node_state(struct sim *sim, uint32_t node);
CHI_PRIVATE CHI_UNUSED struct sim_disk *sim_node_disk(struct sim *sim, uint32_t node);
/* The name by which clients find it: "sim:N". Lives as long as the simulation. */
CHI_PRIVATE CHI_UNUSED const char *sim_node_instance(struct sim *sim, uint32_t node);
/* From its next start on, operations on files hold up the worker that begins them. */
CHI_PRIVATE CHI_UNUSED void sim_node_blocking_io(struct sim *sim, uint32_t node, bool blocks);

/* Of a method's body, or a client's: that much CPU is used. Nobody else is held up. UINT64_MAX: it
 * never comes back. */
CHI_PRIVATE CHI_UNUSED void sim_cpu(struct sim *sim, uint64_t ns);

/* ---- clients: processes on a node's host, each with one thread */

/* Starts one; its number. body may call any chi_ function for clients; when it returns the process
 * has ended. What a client holds after its last chi_client_close is a failure. */
CHI_PRIVATE CHI_UNUSED uint32_t sim_client(struct sim *sim, uint32_t node,
                                           void (*body)(struct sim_client *client, void *arg),
                                           void *arg);
/* As kill -9, at this instant; nothing if it has ended. Not from its own body. */
CHI_PRIVATE CHI_UNUSED void sim_client_kill(struct sim *sim, uint32_t number);
CHI_PRIVATE CHI_UNUSED bool sim_client_ended(struct sim *sim, uint32_t number);

/* Inside the body. */
/* Attaches to its node, as chi_client_open. */
CHI_PRIVATE CHI_UNUSED int sim_client_attach(struct sim_client *client, chi_client **out,
                                             chi_error *err);
CHI_PRIVATE CHI_UNUSED void sim_client_sleep(struct sim_client *client, uint64_t ns);
CHI_PRIVATE CHI_UNUSED struct sim *sim_client_sim(struct sim_client *client);

#endif
