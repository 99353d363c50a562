//! What every transport must do, as facts: public functions that each take a [`Ground`] and panic when the fact is
//! false. `tests/conformance.rs` of the root package runs each for every transport.

pub mod endings;
mod ground;
pub mod integrity;
pub mod leases;
pub mod limits;
mod npu;
mod owner;
pub mod traffic;

pub use ground::{Ground, Hbm, Pair, Side};
pub use npu::{Api, is_simulated, play};
pub use owner::{OwnerLease, be_owner_if_asked};

/// Calls a macro with all facts, as `module::function` paths, after the given arguments.
#[macro_export]
macro_rules! for_each_fact {
    ($callback:ident $arguments:tt) => {
        $callback! { $arguments
            integrity::dense_blocks_arrive_whole_and_alone,
            integrity::padded_blocks_arrive_without_their_padding,
            integrity::slices_of_rows_arrive_in_their_places,
            integrity::ids_of_several_kernel_blocks_arrive_in_order,
            integrity::groups_have_their_own_ids,
            integrity::raw_lists_arrive_at_any_offset_and_length,
            integrity::thousands_of_small_runs_arrive,
            integrity::one_big_run_arrives,
            integrity::a_range_of_parts_leaves_the_others_alone,
            traffic::several_threads_submit_at_once,
            traffic::eight_peers_read_from_one,
            traffic::both_directions_run_at_once,
            endings::a_transfer_cancelled_before_its_start_moves_nothing,
            endings::a_transfer_cancelled_on_its_way_ends_once_and_is_quiet,
            endings::cancelling_after_the_end_changes_nothing,
            endings::dropped_handles_leave_the_transfer_to_its_end,
            endings::an_engine_dropped_with_transfers_in_flight_lets_go_of_its_memory,
            endings::a_wait_that_times_out_leaves_the_transfer_alone,
            endings::a_transfer_is_given_up_after_its_time,
            endings::a_waker_may_enter_the_engine_and_drop_the_last_handle,
            endings::every_transfer_ends_exactly_once,
            leases::a_revoked_lease_lets_no_transfer_begin,
            leases::a_lease_revoked_under_transfers_shows_no_later_byte,
            leases::a_grant_of_a_past_lease_does_not_open_the_next,
            leases::a_token_of_another_life_is_stale,
            leases::renewals_keep_a_lease_of_any_time_to_live,
            leases::a_lease_that_nobody_claims_comes_back,
            leases::claims_wait_for_the_event_of_a_pending_lease,
            leases::wrong_rights_and_blocks_outside_the_lease_are_refused,
            leases::notifications_arrive_once_and_failures_are_told,
            leases::a_failed_event_ends_what_waits_for_it,
            leases::a_suspended_region_lets_go_and_comes_back,
            leases::a_region_closed_while_exported_waits_for_its_peers,
            leases::a_route_over_a_closed_region_is_refused,
            leases::the_end_of_either_side_is_told_to_the_other,
            limits::a_full_transfer_table_refuses_and_gives_room_back,
            limits::every_table_refuses_by_name_when_it_is_full,
            limits::a_full_completion_queue_refuses_and_gives_room_back,
            limits::the_completion_queue_wakes_epoll_and_carries_user_data,
            limits::bad_calls_are_refused_with_what_to_do,
        }
    };
}
