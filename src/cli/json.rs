//! Events as JSON, with the field names of the protos. Numbers of 64 bits are strings, as proto3
//! JSON has them, so that no reader rounds them.

use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use crate::proto::{Event, event::Payload};

/// An event as one JSON object.
pub(super) fn event(event: &Event) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("position", json!(event.position.to_string()));
    put("eventId", json!(event.event_id));
    put("accountId", json!(event.account_id));
    put("version", json!(event.version.to_string()));
    if let Some(time) = &event.event_time {
        put("eventTime", json!(utc(time)));
    }
    if !event.saga_id.is_empty() {
        put("sagaId", json!(event.saga_id));
    }
    if !event.request_id.is_empty() {
        put("requestId", json!(event.request_id));
    }
    if !event.principal.is_empty() {
        put("principal", json!(event.principal));
    }
    if let Some(payload) = &event.payload {
        let (name, value) = named(payload);
        put(name, value);
    }
    Value::Object(object)
}

fn named(payload: &Payload) -> (&'static str, Value) {
    match payload {
        Payload::AccountOpened(opened) => (
            "accountOpened",
            json!({
                "owner": opened.owner,
                "currencyCode": opened.currency_code,
                "initialBalanceMinor": opened.initial_balance_minor.to_string(),
            }),
        ),
        Payload::MoneyDeposited(moved) => {
            ("moneyDeposited", moved_money(moved.amount_minor, moved.balance_minor, &moved.reason))
        }
        Payload::MoneyWithdrawn(moved) => {
            ("moneyWithdrawn", moved_money(moved.amount_minor, moved.balance_minor, &moved.reason))
        }
        Payload::TransferInitiated(initiated) => (
            "transferInitiated",
            json!({
                "toAccountId": initiated.to_account_id,
                "amountMinor": initiated.amount_minor.to_string(),
                "reason": initiated.reason,
            }),
        ),
        Payload::TransferCompleted(_) => ("transferCompleted", json!({})),
        Payload::TransferFailed(failed) => ("transferFailed", json!({ "error": failed.error })),
        Payload::AccountClosed(_) => ("accountClosed", json!({})),
    }
}

fn moved_money(amount_minor: i64, balance_minor: i64, reason: &str) -> Value {
    json!({
        "amountMinor": amount_minor.to_string(),
        "balanceMinor": balance_minor.to_string(),
        "reason": reason,
    })
}

/// A time as RFC 3339 in UTC: what `Timestamp` prints.
fn utc(time: &Timestamp) -> String {
    time.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_who_caused_the_event_where_somebody_is_known() {
        let known = Event { principal: "ada".to_owned(), ..Event::default() };
        assert_eq!(event(&known)["principal"], "ada");
        assert_eq!(event(&Event::default()).get("principal"), None);
    }
}
