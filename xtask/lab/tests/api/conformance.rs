// SPDX-License-Identifier: Apache-2.0
//! The tests that both servers must pass: each alone on the lab's, and all in turn on a real one.

use meshmedic_lab::{ApiServer, need};

/// One test.
type Case = (&'static str, fn(&ApiServer));

macro_rules! cases {
    ($($module:ident: $($name:ident)*;)*) => {
        $($(
            #[test]
            fn $name() {
                crate::$module::$name(&ApiServer::start().unwrap());
            }
        )*)*

        const ALL: &[Case] = &[$($((stringify!($name), crate::$module::$name)),*),*];
    };
}

cases! {
    objects:
        it_creates_and_gets
        it_generates_names
        it_refuses_what_is_there
        it_refuses_bad_names
        it_refuses_an_outdated_update
        it_wants_a_version_in_a_lease
        it_refuses_the_update_of_another_object
        a_write_that_changes_nothing_makes_no_version
        it_lists_in_pages_of_one_moment
        it_selects
        it_shows_metadata_only
        it_tries_out
        it_deletes_under_preconditions;
    patches:
        it_merges
        it_merges_lists_by_key
        it_patches_by_operations
        a_patch_can_carry_its_version
        it_applies
        the_status_is_apart
        annotations_come_through_the_status;
    pods:
        an_unscheduled_pod_goes_at_once
        a_running_pod_goes_in_two_steps
        it_binds_once
        an_eviction_keeps_its_preconditions
        an_eviction_ignores_what_it_does_not_know
        a_budget_refuses
        an_unready_pod_goes_by_its_budget
        two_budgets_are_one_too_many;
    below:
        ephemeral_containers_are_added
        ephemeral_containers_keep_to_the_rules
        pod_security_is_enforced
        the_ways_into_a_pod_are_checked;
    rights:
        it_denies_in_the_real_words
        it_grants_what_roles_say
        it_answers_reviews
        it_knows_no_strangers;
    watches:
        a_watch_goes_on_where_a_list_ended
        a_watch_without_a_version_begins_with_what_is_there
        what_leaves_a_selection_is_deleted_from_it
        a_watch_can_begin_with_a_list
        a_watch_shows_metadata_only
        a_watch_ends_when_it_was_told_to;
}

#[test]
fn the_real_one_conforms() {
    if !need::real_apiserver("the_real_one_conforms") {
        return;
    }
    let api = ApiServer::real().unwrap();
    for (name, case) in ALL {
        eprintln!("{name}");
        case(&api);
    }
}
