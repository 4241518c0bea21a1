/* sim_device.h - P5: what file devices have acknowledged, and whether it is there.
 *
 * A shadow of every file device of a simulation, fed by ENV_TRACE_DEVICE. What was allocated must
 * be allocated when the device is opened again, whatever happened in between; and when a sync is
 * acknowledged, nothing that was done to the file before it began may still be unsafe. */
#ifndef CHI_SIM_DEVICE_H
#define CHI_SIM_DEVICE_H

#include "base.h"
#include "sim_disk.h"
#include "sim_trace.h"

struct sim_device;

/* Takes an event of that kind in. False, and `why`: an acknowledgement was wrong. */
CHI_PRIVATE bool sim_device_event(struct sim_device **devices, const struct sim_trace_event *e,
                                  const struct sim_disk *disk, char *why, size_t size);
CHI_PRIVATE void sim_device_free(struct sim_device **devices);

#endif
