//! The callers: commands at random, some of them wrong and some of them repeated.

use uuid::Uuid;

use super::{model::Account, world::World};
use crate::domain::{
    AccountId, Action, Amount, Balance, Command, CurrencyCode, Owner, Parties, Principal, Reason,
    RequestId, SagaId,
};

/// Commands that come in together, and who gives them.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) principal: Option<Principal>,
    pub(super) commands: Vec<Command>,
}

impl Given {
    /// Who gives them, by name.
    pub(super) fn name(&self) -> Option<&str> {
        self.principal.as_ref().map(Principal::as_str)
    }
}

impl World {
    /// Some commands of somebody, who may be unknown.
    pub(super) fn given(&mut self) -> Given {
        let count = 1 + self.rng.below(self.knobs.batch);
        let commands = (0..count).map(|_| self.command()).collect();
        let names = ["ada", "bob@example.com", "Çelik 🐚"];
        let known = if self.knows_callers { names.len() } else { 0 };
        let name = names[..known].get(self.rng.below(known + 1));
        Given { principal: name.map(|name| Principal::new(name).unwrap()), commands }
    }

    fn command(&mut self) -> Command {
        if self.chance(self.knobs.repeats) && !self.used.is_empty() {
            let newest = self.used.len().min(12);
            return self.used[self.used.len() - 1 - self.rng.below(newest)].clone();
        }
        let mut command = Command { request_id: None, action: self.action() };
        if self.rng.one_in(3) {
            self.requests += 1;
            command.request_id = Some(RequestId::new(Uuid::from_u128(self.requests << 64)));
            self.used.push(command.clone());
        }
        command
    }

    pub(super) fn account(&mut self) -> AccountId {
        AccountId::new(Uuid::from_u128(1 + self.rng.below(self.knobs.accounts) as u128))
    }

    fn expected_version(&mut self, account_id: AccountId) -> Option<u64> {
        let version = self.model.accounts.get(&account_id.uuid()).map_or(0, Account::version);
        match self.rng.below(8) {
            0 => Some(version),
            1 => Some(version + 1),
            _ => None,
        }
    }

    fn action(&mut self) -> Action {
        let account_id = self.account();
        let expected_version = self.expected_version(account_id);
        let huge = self.rng.one_in(20);
        let minor = if huge { 999_999_999_999_990 } else { 1 + self.rng.below(90) as i64 };
        let amount = Amount::new(minor).unwrap();
        let reason = Reason::new(if self.rng.one_in(2) { "rent" } else { "" }).unwrap();
        match self.rng.below(16) {
            0..3 => Action::OpenAccount {
                account_id,
                account_id_given: true,
                owner: Owner::new(["Ada", "Bob", "Çelik 🐚"][self.rng.below(3)]).unwrap(),
                currency: CurrencyCode::parse(["USD", "EUR"][usize::from(self.rng.one_in(6))])
                    .unwrap(),
                initial_balance: Balance::new(self.rng.below(200) as i64).unwrap(),
                expected_version,
            },
            3..7 => Action::DepositMoney { account_id, amount, reason, expected_version },
            7..9 => Action::WithdrawMoney { account_id, amount, reason, expected_version },
            9 => Action::CloseAccount { account_id, expected_version },
            _ => {
                let other = self.account();
                let Some(parties) = Parties::new(account_id, other) else { return self.action() };
                let saga_id = self.rng.one_in(4).then(|| {
                    SagaId::new(Uuid::from_u128((1 << 100) + self.rng.below(500) as u128))
                });
                Action::TransferMoney { saga_id, parties, amount, reason }
            }
        }
    }
}
