//! The settings that say who may call.

use std::{fmt, path::PathBuf};

use super::{Config, ConfigError, ServeArgs, quoted, quoted_path};

/// By what JWTs are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtConfig {
    /// The file with the keys of the issuer, a JWK set.
    pub keys: PathBuf,
    /// Who must have issued a token: its `iss`.
    pub issuer: String,
    /// Whom a token must be for: one of its `aud`.
    pub audience: String,
}

/// The three settings of JWTs: all or none, and not without credentials.
pub(super) fn jwt(given: &ServeArgs) -> Result<Option<JwtConfig>, ConfigError> {
    let ServeArgs { jwt_keys, jwt_issuer, jwt_audience, credentials, .. } = given.clone();
    let settings = [
        ("jwt_keys", jwt_keys.is_some()),
        ("jwt_issuer", jwt_issuer.is_some()),
        ("jwt_audience", jwt_audience.is_some()),
    ];
    let Some((set, _)) = settings.into_iter().find(|(_, is_set)| *is_set) else { return Ok(None) };
    let needed = settings.into_iter().chain([("credentials", credentials.is_some())]);
    if let Some((missing, _)) = needed.into_iter().find(|(_, is_set)| !is_set) {
        return Err(ConfigError::Needs(set, missing));
    }
    let complete = jwt_keys.zip(jwt_issuer).zip(jwt_audience);
    Ok(complete.map(|((keys, issuer), audience)| JwtConfig { keys, issuer, audience }))
}

impl Config {
    /// The settings that say who may call, and how much.
    pub(super) fn tell_access(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(credentials) = &self.credentials {
            writeln!(f, "credentials = {}", quoted_path(credentials))?;
        }
        if let Some(JwtConfig { keys, issuer, audience }) = &self.jwt {
            writeln!(f, "jwt_keys = {}", quoted_path(keys))?;
            writeln!(f, "jwt_issuer = {}", quoted(issuer))?;
            writeln!(f, "jwt_audience = {}", quoted(audience))?;
        }
        writeln!(f, "reflection = {}", self.reflection)?;
        writeln!(f, "calls_per_principal = {}", self.calls_per_principal)?;
        writeln!(f, "rate_per_principal = {}", self.rate_per_principal)?;
        writeln!(f, "tails_per_principal = {}", self.tails_per_principal)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{parse, resolve_with_file};
    use crate::ops::config::resolve;

    #[test]
    fn jwts_need_all_of_their_settings() {
        let all = ["--jwt-keys=k", "--jwt-issuer=i", "--jwt-audience=a", "--credentials=c"];
        assert!(resolve(parse(&all)).unwrap().jwt.is_some());
        for (left_out, set, missing) in [
            (0, "jwt_issuer", "jwt_keys"),
            (1, "jwt_keys", "jwt_issuer"),
            (2, "jwt_keys", "jwt_audience"),
            (3, "jwt_keys", "credentials"),
        ] {
            let mut flags = all.to_vec();
            flags.remove(left_out);
            let error = resolve(parse(&flags)).unwrap_err().to_string();
            assert_eq!(error, format!("{set} needs {missing}"));
        }
        assert!(resolve(parse(&all[3..])).unwrap().jwt.is_none());
        // The file may give what the flags do not.
        let file = "jwt_keys = 'k'\njwt_issuer = 'i'\ncredentials = 'c'";
        assert!(resolve_with_file(file, &["--jwt-audience=a"]).unwrap().jwt.is_some());
    }
}
