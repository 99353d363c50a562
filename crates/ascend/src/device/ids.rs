//! The numbers by which a device goes.

use ascend_sys::acl;

use super::Bound;
use crate::node::SuperPod;

/// A device's numbers. Three countings exist, and files and peers use different ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Ids {
    /// The index after `ASCEND_RT_VISIBLE_DEVICES`.
    pub user: u32,
    /// The index among the devices that the container or host has; `None` when this release does not tell.
    pub logical: Option<u32>,
    /// The number on the board: what `/etc/hccn.conf` and endpoints use. `None` when this release does not tell.
    pub physical: Option<u32>,
    /// Its place in a super-pod; `None` where there is none.
    pub super_pod: Option<SuperPod>,
    /// Bytes of HBM; `None` when this release does not tell.
    pub memory: Option<u64>,
}

impl Ids {
    pub(super) fn unknown(user: u32) -> Self {
        Self { user, logical: None, physical: None, super_pod: None, memory: None }
    }

    /// Asks for all of them; what is not to be had stays `None`.
    pub(super) fn read(on: &Bound<'_>) -> Self {
        let user = on.user_id();
        let super_pod = || {
            Some(SuperPod {
                id: attribute(on, acl::ACL_DEV_ATTR_SUPER_POD_ID)?,
                server: attribute(on, acl::ACL_DEV_ATTR_SUPER_POD_SERVER_ID)?,
                device: attribute(on, acl::ACL_DEV_ATTR_SUPER_POD_DEVICE_ID)?,
            })
        };
        Self {
            user: user.cast_unsigned(),
            logical: logical(on.acl(), user),
            physical: physical(on.acl(), user),
            super_pod: super_pod(),
            memory: memory(on.acl()),
        }
    }
}

fn logical(api: &acl::Api, user: i32) -> Option<u32> {
    let ids = api.device_ids.as_ref()?;
    let mut id = -1;
    // SAFETY: writes one integer to a local.
    let code = unsafe { (ids.aclrtGetLogicDevIdByUserDevId)(user, &mut id) };
    u32::try_from(id).ok().filter(|_| code == 0)
}

fn physical(api: &acl::Api, user: i32) -> Option<u32> {
    let mut id = -1;
    let code = if let Some(ids) = &api.user_device_ids {
        // SAFETY: writes one integer to a local.
        unsafe { (ids.aclrtGetPhyDevIdByUserDevId)(user, &mut id) }
    } else {
        // Whatever its name says, the older function takes a user id.
        let ids = api.device_ids.as_ref()?;
        // SAFETY: as above.
        unsafe { (ids.aclrtGetPhyDevIdByLogicDevId)(user, &mut id) }
    };
    u32::try_from(id).ok().filter(|_| code == 0)
}

/// An attribute that is a 32-bit number; all ones means that there is none.
fn attribute(on: &Bound<'_>, which: acl::aclrtDevAttr) -> Option<u32> {
    let attributes = on.acl().attributes.as_ref()?;
    let mut value = -1;
    // SAFETY: writes one integer to a local.
    let code = unsafe { (attributes.aclrtGetDeviceInfo)(on.user_id().cast_unsigned(), which, &mut value) };
    u32::try_from(value).ok().filter(|value| code == 0 && *value != u32::MAX)
}

fn memory(api: &acl::Api) -> Option<u64> {
    let info = api.memory_info.as_ref()?;
    let (mut free, mut total) = (0, 0);
    // SAFETY: writes two integers to locals.
    let code = unsafe { (info.aclrtGetMemInfo)(acl::ACL_HBM_MEM, &mut free, &mut total) };
    (code == 0 && total > 0).then_some(total as u64)
}
