"""Uses the client that openapi-python-client generates: `client.py URL TOKEN`."""

import sys

from stepwell_client import AuthenticatedClient
from stepwell_client.api.administration import show_principal
from stepwell_client.api.workflows import list_workflows, show_workflow
from stepwell_client.models import Error, Principal

url, token = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=token)

principal = show_principal.sync(client=client)
assert isinstance(principal, Principal), principal
page = list_workflows.sync(client=client, limit=1)
assert page is not None and page.items == [] and page.next_ is None, page
missing = show_workflow.sync(name="missing", client=client)
assert isinstance(missing, Error) and missing.error.code == "not-found", missing
print(f"{principal.team} {principal.user}")
