/* SPDX-License-Identifier: BSD-2-Clause */
#include "settings.h"

#include <stddef.h>
#include <string.h>

#include "system.h"

const char *
settings_action(const struct control_config *config, enum request request, const char **why)
{
	const char *command = config->action[request];

	*why = "the configuration refuses it";
	if (command != NULL)
		return strcmp(command, CONTROL_REFUSE) != 0 ? command : NULL;
	if (request == REQUEST_SUSPEND)
		*why = "only the kernel can suspend this domain, and it has not";
	return system_action(request);
}
