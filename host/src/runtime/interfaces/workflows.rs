//! `workflows`: a read-only, cached view of the team's workflow data.

use serde::Serialize;
use uuid::Uuid;

use super::super::attempt::{AttemptState, unavailable};
use super::super::bindings::stepwell::plugin::workflows::{self, HostError};
use crate::model::plugin::Interface;
use crate::model::{ApprovalStatus, Name};
use crate::store::{Page, StoreError};

type Answer = wasmtime::Result<Result<String, HostError>>;

impl workflows::Host for AttemptState {
    async fn get_workflow(&mut self, name: String) -> Answer {
        let _span = self.enter("workflows.get-workflow")?;
        Ok(self.workflow_json(&name, None).await)
    }

    async fn get_version(&mut self, name: String, version: u32) -> Answer {
        let _span = self.enter("workflows.get-version")?;
        Ok(self.workflow_json(&name, Some(version)).await)
    }

    async fn get_instance(&mut self, id: String) -> Answer {
        let _span = self.enter("workflows.get-instance")?;
        Ok(self.instance_json(&id).await)
    }

    async fn pending_approvals(&mut self, approver: String) -> Answer {
        let _span = self.enter("workflows.pending-approvals")?;
        Ok(self.approvals_json(&approver).await)
    }
}

impl AttemptState {
    async fn workflow_json(
        &mut self,
        name: &str,
        version: Option<u32>,
    ) -> Result<String, HostError> {
        let call = self.granted(Interface::Workflows)?;
        let name: Name = name.parse().map_err(|_| HostError::NotFound)?;
        let store = &self.services.store;
        let found = match version {
            Some(version) => store.workflow_version(&call.team, &name, version).await,
            None => store.workflow(&call.team, &name).await,
        };
        self.answer(found.as_ref().map(Option::as_deref))
    }

    async fn instance_json(&mut self, id: &str) -> Result<String, HostError> {
        let call = self.granted(Interface::Workflows)?;
        let id: Uuid = id.parse().map_err(|_| HostError::NotFound)?;
        let found = self.services.store.instance(&call.team, id).await;
        self.answer(found.as_ref().map(Option::as_deref))
    }

    async fn approvals_json(&mut self, approver: &str) -> Result<String, HostError> {
        let call = self.granted(Interface::Workflows)?;
        let first = Page {
            after: None,
            limit: 200,
        };
        let pending = Some(ApprovalStatus::Pending);
        let found = self
            .services
            .store
            .approvals(&call.team, Some(approver), pending, &first)
            .await;
        self.answer(found.as_ref().map(Some))
    }

    fn answer<T: Serialize>(
        &self,
        found: Result<Option<&T>, &StoreError>,
    ) -> Result<String, HostError> {
        let found = found.map_err(unavailable)?.ok_or(HostError::NotFound)?;
        let json = serde_json::to_string(found)
            .map_err(|error| HostError::Unavailable(error.to_string()))?;
        let max = self.services.limits.payload_bytes_max.saturating_mul(4);
        if json.len() > max {
            return Err(HostError::Limit(format!(
                "the answer has more than {max} bytes"
            )));
        }
        Ok(json)
    }
}
