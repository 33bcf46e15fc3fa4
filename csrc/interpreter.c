/* What CPython has to know of the copies of a process that it runs in. */
#include <Python.h>

#include "nstool.h"

int nst_zygote(int template, int plans, int n_places, uint64_t plan_size)
{
	PyGILState_STATE locked = PyGILState_Ensure();
	int r;

	/* os.fork cannot be told of namespaces; what it does for the interpreter before a fork and afterwards is done here.
	 * Before, but once: as long as this process makes copies nothing in its interpreter changes, so that none of its
	 * pages has to be copied for it. */
	PyOS_BeforeFork();
	r = nst_make_copies(template, plans, n_places, plan_size);
	if (r == 0)
		PyOS_AfterFork_Child();
	else
		PyOS_AfterFork_Parent();
	PyGILState_Release(locked);
	return r;
}
