/*
 * A stand-in for libnvidia-ml.so.1: the calls that dp-vllm makes, answered from the file that NVML_STAND_IN names.
 *
 * Its lines, in any order:
 *   gpu UUID BUS NUMA-MASK CPU-MASK       the masks in hexadecimal, 0 for "does not say"
 *   mig GPU UUID                          a part of that GPU; UUID "-" for none: it is divided, but empty
 *   pcie GPU GPU LEVEL                    NVML's level of the nearest common part
 *   nvlink GPU TYPE BUS                   an active link, its remote end: TYPE 0 a GPU, 2 a switch, 255 unknown
 *   fabric GPU STATE
 *   driver VERSION CUDA                   CUDA as the driver counts: 13000
 *   card GPU TOTAL FREE CAPABILITY NAME   sizes in MiB, the capability as 90; without such a line it does not say
 *   holder GPU PID                        a process that computes there
 *   fail CALL CODE                        that call returns this error
 *   hang CALL                             that call never returns
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, MOST = 64 };

struct link { unsigned type; char bus[32]; };
struct device {
    char uuid[64], bus[32];
    unsigned long long numa, cpus;
    unsigned fabric, is_divided, parts, links, level[MOST];
    unsigned long long total, free;
    unsigned capability, holders, holder[MOST];
    char name[64];
    struct device *part[MOST];
    struct link link[MOST];
};
typedef struct device *handle;
/* As in nvml.h. */
struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char text[32]; };
struct memory { unsigned long long total, free, used; };
struct process { unsigned pid; unsigned long long used; unsigned instance, compute; };
struct fabric { unsigned version; unsigned char cluster[16]; unsigned status, clique, state, health; };

static struct device gpus[MOST];
static unsigned count;
static char driver[64];
static int cuda;

/* Whether this call is to fail, and with what; one that is to hang does so here. */
static int fate(const char *call)
{
    char line[256], name[128];
    int code, found = OK;
    FILE *file = fopen(getenv("NVML_STAND_IN"), "r");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "hang %127s", name) == 1 && !strcmp(name, call))
            for (;;)
                pause();
        if (sscanf(line, "fail %127s %d", name, &code) == 2 && !strcmp(name, call))
            found = code;
    }
    fclose(file);
    return found;
}

#define MIND do { int code = fate(__func__); if (code) return code; } while (0)

static void read_line(const char *line)
{
    unsigned one, other, number;
    struct device new = {0};
    struct link link = {0};
    if (sscanf(line, "gpu %63s %31s %llx %llx", new.uuid, new.bus, &new.numa, &new.cpus) == 4)
        gpus[count++] = new;
    if (sscanf(line, "mig %u %63s", &one, new.uuid) == 2) {
        gpus[one].is_divided = 1;
        if (strcmp(new.uuid, "-")) {
            gpus[one].part[gpus[one].parts] = malloc(sizeof new);
            *gpus[one].part[gpus[one].parts++] = new;
        }
    }
    if (sscanf(line, "pcie %u %u %u", &one, &other, &number) == 3)
        gpus[one].level[other] = gpus[other].level[one] = number;
    if (sscanf(line, "nvlink %u %u %31s", &one, &link.type, link.bus) == 3)
        gpus[one].link[gpus[one].links++] = link;
    sscanf(line, "driver %63s %d", driver, &cuda);
    if (sscanf(line, "card %u %llu %llu %u %63[^\n]", &one, &new.total, &new.free, &number, new.name) == 5) {
        gpus[one].total = new.total << 20;
        gpus[one].free = new.free << 20;
        gpus[one].capability = number;
        strcpy(gpus[one].name, new.name);
    }
    if (sscanf(line, "holder %u %u", &one, &number) == 2)
        gpus[one].holder[gpus[one].holders++] = number;
    if (sscanf(line, "fabric %u %u", &one, &number) == 2)
        gpus[one].fabric = number;
}

int nvmlInitWithFlags(unsigned flags)
{
    char line[256];
    FILE *file;
    (void)flags;
    MIND;
    file = fopen(getenv("NVML_STAND_IN"), "r");
    while (fgets(line, sizeof line, file))
        read_line(line);
    fclose(file);
    return OK;
}

const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "something else"; }

int nvmlDeviceGetCount_v2(unsigned *found) { MIND; *found = count; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, handle *found) { MIND; *found = &gpus[index]; return OK; }

int nvmlDeviceGetUUID(handle gpu, char *uuid, unsigned size) { MIND; strncpy(uuid, gpu->uuid, size); return OK; }

int nvmlDeviceGetMigMode(handle gpu, unsigned *current, unsigned *pending)
{
    MIND;
    *current = *pending = gpu->is_divided;
    return OK;
}

/* Places may be empty: part 0 is at place 1. */
int nvmlDeviceGetMaxMigDeviceCount(handle gpu, unsigned *most) { MIND; *most = gpu->parts + 2; return OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(handle gpu, unsigned index, handle *part)
{
    MIND;
    if (index == 0 || index > gpu->parts)
        return NOT_FOUND;
    *part = gpu->part[index - 1];
    return OK;
}

static void put_bus(struct pci *pci, const char *bus)
{
    memset(pci, 0, sizeof *pci);
    strcpy(pci->text, bus);
}

int nvmlDeviceGetPciInfo_v3(handle gpu, struct pci *pci) { MIND; put_bus(pci, gpu->bus); return OK; }

int nvmlDeviceGetTopologyCommonAncestor(handle one, handle other, unsigned *level)
{
    MIND;
    *level = one->level[other - gpus];
    return OK;
}

int nvmlDeviceGetNvLinkState(handle gpu, unsigned number, unsigned *active)
{
    MIND;
    if (number > gpu->links)
        return INVALID_ARGUMENT;
    *active = number < gpu->links; /* the last one is broken */
    return OK;
}

int nvmlDeviceGetNvLinkRemoteDeviceType(handle gpu, unsigned number, unsigned *type)
{
    MIND;
    *type = gpu->link[number].type;
    return OK;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(handle gpu, unsigned number, struct pci *pci)
{
    MIND;
    put_bus(pci, gpu->link[number].bus);
    return OK;
}

static int put_mask(unsigned long long *set, unsigned size, unsigned long long mask)
{
    memset(set, 0, size * sizeof *set);
    set[0] = mask;
    return mask ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetMemoryAffinity(handle gpu, unsigned size, unsigned long long *set, unsigned scope)
{
    (void)scope;
    MIND;
    return put_mask(set, size, gpu->numa);
}

int nvmlDeviceGetCpuAffinity(handle gpu, unsigned size, unsigned long long *set)
{
    MIND;
    return put_mask(set, size, gpu->cpus);
}

int nvmlDeviceGetGpuFabricInfoV(handle gpu, struct fabric *fabric)
{
    MIND;
    if (!gpu->fabric)
        return NOT_SUPPORTED;
    fabric->state = gpu->fabric;
    return OK;
}

int nvmlSystemGetDriverVersion(char *version, unsigned size) { MIND; strncpy(version, driver, size); return OK; }

int nvmlSystemGetCudaDriverVersion_v2(int *version) { MIND; *version = cuda; return OK; }

int nvmlDeviceGetName(handle gpu, char *name, unsigned size) { MIND; strncpy(name, gpu->name, size); return OK; }

int nvmlDeviceGetMemoryInfo(handle gpu, struct memory *memory)
{
    MIND;
    if (!gpu->total)
        return NOT_SUPPORTED;
    *memory = (struct memory){gpu->total, gpu->free, gpu->total - gpu->free};
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(handle gpu, int *major, int *minor)
{
    MIND;
    if (!gpu->capability)
        return NOT_SUPPORTED;
    *major = gpu->capability / 10;
    *minor = gpu->capability % 10;
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(handle gpu, unsigned *room, struct process *processes)
{
    unsigned place, had = *room;
    MIND;
    *room = gpu->holders;
    if (gpu->holders > had)
        return TOO_SMALL;
    for (place = 0; place < gpu->holders; place++)
        processes[place] = (struct process){.pid = gpu->holder[place], .used = 1 << 30};
    return OK;
}
