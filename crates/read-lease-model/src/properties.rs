//! The properties: what every state must have, and what must be reachable.

use stateright::Property;

use crate::changer::ChangerStep;
use crate::config::Config;
use crate::protocol::{G11, KEEPS, Protocol, RETURNS, WAIT_OUTLASTS};
use crate::state::{State, event};

macro_rules! has_seen {
    ($name:literal, $event:ident) => {
        Property::sometimes($name, |_, state: &State| state.has_seen(event::$event))
    };
}

/// Returns the properties of a configuration.
pub(crate) fn properties(config: &Config) -> Vec<Property<Protocol>> {
    let mut properties = vec![
        Property::always(G11, |_, state: &State| !state.granted),
        Property::always(WAIT_OUTLASTS, |_, state: &State| !state.time.outlasted),
        Property::always(RETURNS, can_return),
    ];
    if config.prompt {
        properties.push(Property::always(KEEPS, keeps));
    }
    if config.track {
        properties.extend(reachable());
    }
    properties
}

/// Each changer whose T has passed can return, or its run of the server is over.
fn can_return(protocol: &Protocol, state: &State) -> bool {
    let changers = state.changers.iter().enumerate();
    let mut waiting = changers
        .filter(|(number, changer)| changer.is_waiting() && state.time.may_have_passed(*number));
    let ends = [ChangerStep::ReturnAfterWait, ChangerStep::StartOver];
    waiting.all(|(number, _)| {
        let mut steps = Vec::new();
        protocol.changer_steps(state, number, &mut steps);
        steps.iter().any(|step| ends.contains(step))
    })
}

/// Each holder that was granted a lease still has one, and holds the key unless it was revoked.
fn keeps(protocol: &Protocol, state: &State) -> bool {
    (0..protocol.config().holders).all(|number| {
        let holder = &state.holders[number];
        let had_lease = holder.had_lease;
        let holds = holder.holds_key() || state.database.revoked();
        !had_lease || state.time.in_force(number) && holds
    })
}

/// Returns what must be reachable. A model that reaches none of this would check nothing.
pub(crate) fn reachable() -> Vec<Property<Protocol>> {
    vec![
        Property::sometimes("a holder grants the key from a held row", |_, state: &State| {
            let mut holders = state.holders.iter().enumerate();
            holders.any(|(number, holder)| holder.holds_key() && state.time.in_force(number))
        }),
        Property::sometimes(
            "a revocation returns while a lease is in force",
            |_, state: &State| {
                state.returned && (0..state.holders.len()).any(|number| state.time.in_force(number))
            },
        ),
        has_seen!("a revocation returns by acknowledgements", ACKNOWLEDGED),
        has_seen!("a revocation returns after T", WAITED),
        has_seen!("a smaller id commits later", SMALLER_ID_LATER),
        has_seen!("a holder is struck off", STRUCK_OFF),
        has_seen!("the server fails over", FAILED_OVER),
        has_seen!("ids are given out again", IDS_AGAIN),
        has_seen!("a new run is settled", SETTLED),
        has_seen!("a second attempt finds nothing to change", NOTHING_TO_CHANGE),
        has_seen!("a holder that was struck off forgets everything", FORGOT),
        has_seen!("a holder loads everything again", LOADED_AGAIN),
    ]
}
